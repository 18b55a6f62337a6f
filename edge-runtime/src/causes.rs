/// An error with its causes in one line; a cause that the text has already is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the door")]
    struct Door(#[source] Key);

    #[derive(Debug, thiserror::Error)]
    #[error("the key is lost")]
    struct Key;

    #[test]
    fn a_chain_reads_from_the_outcome_to_the_cause() {
        assert_eq!(chain(&Door(Key)), "open the door: the key is lost");
        assert_eq!(chain(&Key), "the key is lost");
    }
}
