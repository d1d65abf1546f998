//! `dlog log delete`

use std::io::{self, BufRead, IsTerminal, Write};

use dlog_client::Client;

use crate::args::LogDeleteArgs;
use crate::failure::Failure;
use crate::output::human::counted;
use crate::output::print;

pub(crate) async fn run(client: &Client, args: &LogDeleteArgs) -> Result<(), Failure> {
    if !args.yes {
        if !io::stdin().is_terminal() {
            let failure =
                Failure::usage(format!("{} was not deleted: there is nobody to ask whether it is meant", args.log));
            return Err(failure.hint("say --yes"));
        }
        let info = client.log(&args.log).await?;
        let partitions = counted(info.partitions.len() as u64, "partition");
        let question = format!("Delete {} ({partitions}) with all its records? [y/N] ", args.log);
        if !confirmed(&question, &mut io::stdin().lock(), &mut io::stderr())? {
            return Err(Failure::new(format!("{} was not deleted", args.log)));
        }
    }
    client.delete_log(&args.log).await?;
    print(&format!("deleted {}\n", args.log))
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
