"""Makes the pictures that tests decode, and what another library makes of them. Needs the packages numpy and pillow:

    python3 make.py        writes the files beside this script

A scene of smooth slopes and a disc, so that a side, a channel or a corner that is taken for another shows.
pillow 13.0.0 made the files in the repository; its bilinear filter counts every pixel, as `antialias` does here.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
WIDTH, HEIGHT = 60, 40

y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
disc = ((x - 20) ** 2 + (y - 18) ** 2 < 150) * 200
SCENE = Image.fromarray(np.stack([x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), disc], -1).astype(np.uint8))


def flat(image):
    return np.asarray(image).reshape(-1).tolist()


def main():
    SCENE.save(HERE / "scene.png")
    SCENE.save(HERE / "scene.jpg", quality=95, subsampling=0)
    SCENE.save(HERE / "progressive.jpg", quality=90, progressive=True)
    SCENE.convert("L").save(HERE / "gray.jpg", quality=95)
    SCENE.convert("L").save(HERE / "gray.png")
    SCENE.convert("CMYK").save(HERE / "cmyk.jpg", quality=95)
    clear = SCENE.copy()
    clear.putalpha(Image.fromarray((x * 4).astype(np.uint8)))
    clear.save(HERE / "clear.png")
    SCENE.quantize(64).save(HERE / "palette.png")
    # Stored lying on its left side, with the tag that says so.
    exif = Image.Exif()
    exif[0x0112] = 6
    SCENE.transpose(Image.Transpose.ROTATE_90).save(HERE / "turned.jpg", quality=95, subsampling=0, exif=exif)
    size, bilinear = (16, 12), Image.Resampling.BILINEAR
    expected = {
        "stretch": flat(SCENE.resize(size, bilinear)),
        # The middle 40 * 16 / 12 pixels of the width, the whole height.
        "crop": flat(SCENE.resize(size, bilinear, box=(30 - 80 / 3, 0, 30 + 80 / 3, 40))),
        "larger": flat(SCENE.convert("L").resize((90, 70), bilinear)),
        "gray": flat(SCENE.convert("L").resize(size, bilinear)),
        "scene.jpg": flat(Image.open(HERE / "scene.jpg").resize(size, bilinear)),
        "progressive.jpg": flat(Image.open(HERE / "progressive.jpg").resize(size, bilinear)),
        "gray.jpg": flat(Image.open(HERE / "gray.jpg").convert("RGB").resize(size, bilinear)),
        "palette.png": flat(Image.open(HERE / "palette.png").convert("RGB").resize(size, bilinear)),
    }
    (HERE / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
