//! Asking whether what cannot be undone is meant.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::Failure;

/// Asks on the terminal; `undone` says what was not done, if it is not meant or nobody is there to say so.
///
/// # Errors
///
/// If it is not meant.
pub(super) fn confirm(question: &str, undone: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let failure = Failure::usage(format!("{undone}: there is nobody to ask whether it is meant"));
        return Err(failure.hint("say --yes"));
    }
    match confirmed(&format!("{question} [y/N] "), &mut io::stdin().lock(), &mut io::stderr())? {
        true => Ok(()),
        false => Err(Failure::new(undone.to_owned())),
    }
}

fn confirmed(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> Result<bool, Failure> {
    let mut answer = String::new();
    let asked = write!(output, "{question}").and_then(|()| output.flush()).and_then(|()| input.read_line(&mut answer));
    asked.map_err(|error| Failure::new(format!("cannot ask whether it is meant: {error}")).hint("say --yes"))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (answer, meant) in
            [("y\n", true), (" YES \n", true), ("", false), ("\n", false), ("n\n", false), ("yess\n", false)]
        {
            let mut asked = Vec::new();
            assert_eq!(confirmed("Really? ", &mut answer.as_bytes(), &mut asked), Ok(meant), "{answer:?}");
            assert_eq!(asked, b"Really? ");
        }
    }
}
