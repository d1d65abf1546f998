//! `dlog log delete`

use dlog_client::Client;

use super::confirm::confirm;
use crate::args::LogDeleteArgs;
use crate::failure::Failure;
use crate::output::human::counted;
use crate::output::print;

pub(crate) async fn run(client: &Client, args: &LogDeleteArgs) -> Result<(), Failure> {
    if !args.yes {
        let info = client.log(&args.log).await?;
        let partitions = counted(info.partitions.len() as u64, "partition");
        let question = format!("Delete {} ({partitions}) with all its records?", args.log);
        confirm(&question, &format!("{} was not deleted", args.log))?;
    }
    client.delete_log(&args.log).await?;
    print(&format!("deleted {}\n", args.log))
}
