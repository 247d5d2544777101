//! The `redgrid` binary: arguments in, exit code out.
//!
//! 0: done. 1: it failed, with one line on stderr. 2: bad usage.

use clap::Parser;
use redgrid::{cli::Cli, config::ConfigError};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("redgrid: the system gives no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(redgrid::cli::run(cli.command));
    // Whatever still runs has had its time: the command is over.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redgrid: {error:#}");
            error
                .downcast_ref::<ConfigError>()
                .map_or(ExitCode::FAILURE, |bad| ExitCode::from(bad.exit_code()))
        }
    }
}
