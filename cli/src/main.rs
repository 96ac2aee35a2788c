//! The `soragen` command: video from text, without a pipeline to write.

mod args;
mod cache;
mod error;
mod models;
mod output;
mod render;

use std::process::ExitCode;

use args::{Args, CacheCommand, Command, ModelsCommand};
use clap::Parser;

/// Exit status of a command that was not understood; clap's.
const USAGE: u8 = 2;
/// Exit status of a command that a signal ended, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Render(args) => render::run(&args),
        Command::Models(ModelsCommand::List) => models::list(),
        Command::Models(ModelsCommand::Info { source }) => models::info(&source),
        Command::Cache(CacheCommand::List(args)) => cache::list(args.cache_dir.as_deref()),
        Command::Cache(CacheCommand::Clear(args)) => cache::clear(args.cache_dir.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error::Error::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("soragen: {error}");
            if matches!(error, error::Error::Usage(_)) { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}
