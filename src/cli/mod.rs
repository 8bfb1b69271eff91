//! The command line: one command a file. The only place that prints.

pub mod simulate;

/// A command and its arguments.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a simulated inference server
    Simulate(simulate::Args),
}

impl Command {
    /// Does what the command says, until it is done or interrupted.
    ///
    /// # Errors
    /// What could not be done, for a person.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Simulate(args) => simulate::run(args).await,
        }
    }
}
