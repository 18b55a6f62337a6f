"""Turns a picture by 90, 180 and 270 degrees clockwise, and saves it once as JPEG.

    python3 models/orientation/turn.py PICTURE.png FOLDER
"""

import pathlib
import sys

from PIL import Image


def main():
    source, folder = map(pathlib.Path, sys.argv[1:])
    with Image.open(source) as picture:
        for degrees in (90, 180, 270):
            turned = picture.rotate(-degrees, expand=True)
            turned.save(folder / f"{source.stem}-{degrees}.png")
        picture.save(folder / f"{source.stem}.jpg", quality=92)


if __name__ == "__main__":
    main()
