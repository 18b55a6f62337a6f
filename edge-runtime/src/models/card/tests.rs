use super::*;

fn info(name: &str, datatype: DataType, shape: &[i64]) -> TensorInfo {
    TensorInfo {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
    }
}

/// What a card and labels say of a model with one input `x` and the outputs given.
fn read(
    card: &str,
    labels: Option<&str>,
    input: (DataType, &[i64]),
    outputs: &[TensorInfo],
) -> Result<Description, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let files = ModelFiles {
        card: Some(file("card.toml", card)),
        labels: labels.map(|labels| file("labels.txt", labels)),
        golden: None,
    };
    Description::read(&files, &[info("x", input.0, input.1)], outputs).map_err(|error| {
        error
            .to_string()
            .replace(&format!("{}/", dir.path().display()), "")
    })
}

fn image(card: &str, shape: &[i64]) -> Result<ImageCard, String> {
    let card = format!("[image]\n{card}");
    read(&card, None, (DataType::Fp32, shape), &[]).map(|read| read.image.unwrap())
}

#[test]
fn a_short_card_takes_everything_from_the_models_input() {
    let card = image("", &[-1, 3, 224, 192]).unwrap();
    assert_eq!(card.shape, [1, 3, 224, 192]);
    assert_eq!(
        (card.layout, card.width, card.height),
        (Layout::Nchw, 192, 224)
    );
    assert_eq!(card.normalize.std, [1.0; 3]);
    let card = image("color = 'gray'\nsize = [64, 32]", &[-1, -1, 1]).unwrap();
    assert_eq!(
        (card.layout, &card.shape[..]),
        (Layout::Nhwc, &[32, 64, 1][..])
    );
    let card = image(
        "mean = 0.5\nstd = [1.0, 2.0, 4.0]\nscale = 0.004",
        &[1, 8, 8, 3],
    )
    .unwrap();
    assert_eq!(card.normalize.mean, [0.5; 3]);
    assert_eq!(card.normalize.std, [1.0, 2.0, 4.0]);
}

#[test]
fn a_card_that_does_not_fit_is_refused_with_what_does_not() {
    let cases = [
        (
            "",
            &[-1, 3, -1, -1][..],
            "input 'x' leaves its width free, so that image.size has to say it",
        ),
        (
            "size = [32, 32]",
            &[1, 3, 64, 64],
            "input 'x' has shape [1, 3, 64, 64], and image.size a width of 32",
        ),
        (
            "size = [0, 32]",
            &[1, 3, -1, -1],
            "image.size has a width of 0",
        ),
        (
            "input = 'y'",
            &[1, 3, 8, 8],
            "it has no input 'y'; it has 'x'",
        ),
        (
            "",
            &[1, 64],
            "input 'x' has shape [1, 64], and a picture has three dimensions, with or without a batch of 1 before them",
        ),
        (
            "",
            &[2, 3, 8, 8],
            "input 'x' has shape [2, 3, 8, 8], and a picture has three dimensions, with or without a batch of 1 before them",
        ),
        (
            "",
            &[1, 4, 8, 8],
            "input 'x' has shape [1, 4, 8, 8], and the card's color has 3 channels",
        ),
        (
            "layout = 'NCHW'",
            &[1, 8, 8, 3],
            "input 'x' has 8 channels in this layout, and the card's color has 3",
        ),
        (
            "mean = [1.0, 2.0]",
            &[1, 3, 8, 8],
            "image.mean has 2 numbers for 3 channels",
        ),
        (
            "std = 0.0",
            &[1, 3, 8, 8],
            "image.std has a 0, by which nothing can be divided",
        ),
        (
            "keep = 1.5",
            &[1, 3, 8, 8],
            "image.keep is 1.5, expected more than 0 and at most 1",
        ),
    ];
    for (card, shape, problem) in cases {
        let wanted = format!("card.toml does not fit the model: {problem}");
        assert_eq!(image(card, shape).unwrap_err(), wanted);
    }
    let error = read("[image]", None, (DataType::Fp16, &[1, 3, 8, 8]), &[]).unwrap_err();
    assert!(
        error.contains("has datatype FP16, and pictures become FP32 or UINT8"),
        "{error}"
    );
    let error = read(
        "[image]\nscale = 2.0",
        None,
        (DataType::Uint8, &[1, 3, 8, 8]),
        &[],
    )
    .unwrap_err();
    assert!(
        error.contains("scale, mean and std have no place"),
        "{error}"
    );
}

#[test]
fn unknown_keys_and_wrong_words_are_refused_with_their_line() {
    let error = image("colour = 'rgb'", &[1, 3, 8, 8]).unwrap_err();
    assert!(error.contains("line 2: image.colour"), "{error}");
    for card in [
        "color = 'cmyk'",
        "resize = 'tile'",
        "layout = 'CHWN'",
        "size = [1]",
        "mean = 'x'",
    ] {
        let error = image(card, &[1, 3, 8, 8]).unwrap_err();
        assert!(
            error.contains("card.toml is not valid") && error.contains("line 2"),
            "{error}"
        );
    }
}

#[test]
fn labels_belong_to_the_output_with_the_scores() {
    let x = (DataType::Fp32, &[1, 4][..]);
    let one = [info("y", DataType::Fp32, &[-1, 2])];
    let two = [
        info("a", DataType::Fp32, &[9]),
        info("b", DataType::Int64, &[2]),
    ];
    let good = read("", Some("cat\r\ndog\n"), x, &one).unwrap();
    assert_eq!(good.labels, ["cat", "dog"]);
    assert_eq!((good.scores_of(&one), good.top()), (Some("y"), 5));
    let good = read("[labels]\noutput = 'b'\ntop = 1", Some("cat\ndog"), x, &two).unwrap();
    assert_eq!((good.scores_of(&two), good.top()), (Some("b"), 1));
    assert_eq!(
        read("", Some("cat"), x, &two).unwrap().scores_of(&two),
        None
    );
    let cases = [
        (
            "",
            Some("cat"),
            &one[..],
            "labels.txt has 1 labels, but output 'y' has 2 classes",
        ),
        (
            "[labels]\noutput = 'a'",
            Some("cat"),
            &two,
            "labels.txt has 1 labels, but output 'a' has 9 classes",
        ),
        (
            "[labels]",
            None,
            &two,
            "card.toml does not fit the model: the card has to name one of its outputs: 'a', 'b'",
        ),
        (
            "[labels]\ntop = 0",
            None,
            &one,
            "card.toml does not fit the model: labels.top is 0, expected at least 1",
        ),
    ];
    for (card, labels, outputs, message) in cases {
        assert_eq!(read(card, labels, x, outputs).unwrap_err(), message);
    }
}

#[test]
fn files_that_are_not_there_are_named() {
    let files = ModelFiles {
        card: Some("/nowhere/card.toml".into()),
        ..ModelFiles::default()
    };
    let error = Description::read(&files, &[], &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/card.toml cannot be read: "),
        "{error}"
    );
    assert_eq!(
        Description::read(&ModelFiles::default(), &[], &[]).unwrap(),
        Description::default()
    );
}
