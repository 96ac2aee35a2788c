//! The `soragen` command: generates video from text without a GStreamer pipeline.

#[macro_use]
mod print;

mod args;
mod cache;
mod certificate;
mod decode;
mod detect;
mod error;
mod hub;
mod interrupt;
mod models;
mod output;
mod policy;
mod render;
mod signing;
mod timeline;

use std::process::ExitCode;

use args::{Args, CacheCommand, Command, ModelsCommand, PolicyCommand};
use clap::Parser;

/// Exit status for wrong usage, the same as clap's.
const USAGE: u8 = 2;
/// Exit status after SIGINT, as in shells.
const INTERRUPTED: u8 = 130;
/// Exit status for a negative result: no watermark was detected, or a prompt was blocked.
const NEGATIVE: u8 = 3;

fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    soragen_builtin::register();
    let result: error::Result<ExitCode> = match Args::parse().command {
        Command::Render(args) => render::run(&args).map(success),
        Command::Models(ModelsCommand::List) => models::list().map(success),
        Command::Models(ModelsCommand::Info { source, parts }) => {
            models::info(&source, &(&parts).into()).map(success)
        }
        Command::Models(ModelsCommand::Pull { source }) => hub::pull(&source).map(success),
        Command::Convert(args) => models::convert(&args).map(success),
        Command::Policy(PolicyCommand::Check { policy }) => policy::check(policy.as_deref()),
        Command::Policy(PolicyCommand::Verify { log }) => policy::verify(&log).map(success),
        Command::Cache(CacheCommand::List(args)) => cache::list(args.cache_dir.as_deref()).map(success),
        Command::Cache(CacheCommand::Clear(args)) => cache::clear(args.cache_dir.as_deref()).map(success),
        Command::Detect(args) => detect::run(&args),
        Command::Certificate(args) => certificate::run(&args).map(success),
    };
    match result {
        Ok(status) => status,
        Err(error::Error::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("soragen: {error}");
            if matches!(error, error::Error::Usage(_)) { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}
