//! The command line, as typed: the commands here, their shared groups of flags
//! in [`args`]. What a flag means is decided once, in [`crate::config`].
//!
//! Results go to stdout, logs to stderr. Exit codes: 0 done, 1 it failed, 2 bad
//! usage (clap's own, and [`crate::config::ConfigError::exit_code`]).

pub mod args;
mod client;
mod demo;
mod doctor;
mod list;
pub mod logging;
mod meta;
mod names;
mod node;
mod table;

use std::io::{ErrorKind, Write};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

pub use self::args::{CallerArgs, EpmdPortArg, MeshArgs, NodeArgs, ReaderArgs};
use crate::config::Flags;
use crate::dist::NodeName;

/// A node of an Erlang cluster, discovered through Redis, and tools for the mesh.
#[derive(Parser)]
#[command(
    name = "redgrid",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Examples:\n  \
        redgrid demo                                       # see a whole mesh on this machine\n  \
        redgrid node --name web@127.0.0.1 --meta weight=0  # run a node\n  \
        redgrid nodes                                      # list the mesh\n  \
        redgrid call web@127.0.0.1 erlang node             # call a function on a node\n\n\
        Each command has its own --help."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Run a node until SIGINT or SIGTERM
    Node(Box<NodeArgs>),
    /// List the mesh as Redis has it; no node is needed
    Nodes(NodesArgs),
    /// Read or change what a node announces about itself
    Meta(MetaArgs),
    /// Wait until enough nodes are in the mesh
    Await(AwaitArgs),
    /// Check that a node answers
    Ping(PingArgs),
    /// Call a function on a node and print its result
    Call(CallArgs),
    /// Call a function on a node without waiting for its result
    Cast(CastArgs),
    /// Send a term to a registered process of a node
    Send(SendArgs),
    /// List the nodes that the epmd of a host knows
    Names(NamesArgs),
    /// Find out what is wrong: Redis, epmd, name, cookie, ports, and the way to every known node
    Doctor(DoctorArgs),
    /// Take a node out of the mesh while it keeps running
    Suspend(TargetArgs),
    /// Bring a suspended node back into the mesh
    Resume(TargetArgs),
    /// Run a whole mesh on this machine: Redis, one Rust node, two Erlang nodes
    Demo(DemoArgs),
    /// Print the completions for a shell
    #[command(after_help = "Example:\n  redgrid completions bash > /etc/bash_completion.d/redgrid")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    #[command(after_help = "Example:\n  redgrid man | man -l -")]
    Man,
}

/// `redgrid nodes`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  redgrid nodes\n  redgrid nodes --json | jq '.[].node'\n  redgrid nodes --watch"
)]
pub struct NodesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Go on printing as the mesh changes, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// List suspended nodes too
    #[arg(long)]
    pub all: bool,
    /// Redis and scope.
    #[command(flatten)]
    pub reader: ReaderArgs,
}

/// `redgrid meta`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    redgrid meta get\n  \
    redgrid meta set weight=50 zone:=eu --node web@127.0.0.1\n  \
    redgrid meta unset zone --node web@127.0.0.1")]
pub struct MetaArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub action: MetaAction,
}

/// What `redgrid meta` does.
#[derive(Subcommand)]
pub enum MetaAction {
    /// Print the meta of a node
    #[command(after_help = "Example:\n  redgrid meta get --node web@127.0.0.1")]
    Get {
        /// Which node, and how to reach it.
        #[command(flatten)]
        target: MetaTarget,
    },
    /// Set some keys and leave the others as they are
    #[command(after_help = "Example:\n  redgrid meta set weight=50 zone:=eu --node web@127.0.0.1")]
    Set {
        /// What to set: KEY=VALUE (a number or a string) or KEY:=TERM
        #[arg(required = true, value_name = "KEY=VALUE")]
        entries: Vec<String>,
        /// Which node, and how to reach it.
        #[command(flatten)]
        target: MetaTarget,
    },
    /// Set these keys and remove all others
    #[command(after_help = "Example:\n  redgrid meta replace weight=50 --node web@127.0.0.1")]
    Replace {
        /// What to set: KEY=VALUE (a number or a string) or KEY:=TERM; none removes all
        #[arg(value_name = "KEY=VALUE")]
        entries: Vec<String>,
        /// Which node, and how to reach it.
        #[command(flatten)]
        target: MetaTarget,
    },
    /// Remove some keys
    #[command(after_help = "Example:\n  redgrid meta unset zone --node web@127.0.0.1")]
    Unset {
        /// What to remove
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// Which node, and how to reach it.
        #[command(flatten)]
        target: MetaTarget,
    },
}

/// The node whose meta it is.
#[derive(Args)]
pub struct MetaTarget {
    /// The node; needed unless this host has exactly one member
    #[arg(long, value_name = "NODE")]
    pub node: Option<NodeName>,
    /// How to reach it.
    #[command(flatten)]
    pub caller: CallerArgs,
}

/// `redgrid await`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    redgrid await --nodes 3 --timeout 30\n  \
    redgrid await --nodes 2 --where lang=rust")]
pub struct AwaitArgs {
    /// How many nodes there must be, at least
    #[arg(long, value_name = "N")]
    pub nodes: usize,
    /// Count only nodes whose meta has this text under this key
    #[arg(long = "where", value_name = "KEY=VALUE", value_parser = pair)]
    pub matching: Option<(String, String)>,
    /// How long to wait, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,
    /// Redis and scope.
    #[command(flatten)]
    pub reader: ReaderArgs,
}

impl AwaitArgs {
    /// The flags as typed.
    pub fn flags(&self) -> Flags {
        let mut flags = self.reader.flags();
        flags.one("timeout", self.timeout.as_deref());
        flags
    }
}

/// `redgrid ping`.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    redgrid ping web@127.0.0.1\n\n\
    Without --redis or REDIS_URL the node is found through its host and the epmd there.")]
pub struct PingArgs {
    /// The node
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// How to reach it.
    #[command(flatten)]
    pub caller: CallerArgs,
}

/// `redgrid suspend` and `redgrid resume`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  redgrid suspend web@127.0.0.1\n  redgrid resume web@127.0.0.1\n\n\
        Without --redis or REDIS_URL the node is found through its host and the epmd there."
)]
pub struct TargetArgs {
    /// The node
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// How to reach it.
    #[command(flatten)]
    pub caller: CallerArgs,
}

/// The function that `call` and `cast` name.
#[derive(Args)]
pub struct FunctionArgs {
    /// The node
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// The module
    pub module: String,
    /// The function
    pub function: String,
    /// Its arguments, in Erlang term syntax
    #[arg(value_name = "ARG", allow_negative_numbers = true)]
    pub args: Vec<String>,
}

/// `redgrid call`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    redgrid call web@127.0.0.1 erlang system_info otp_release\n  \
    redgrid call web@127.0.0.1 redgrid nodes '[native]' --json\n  \
    redgrid call foo@127.0.0.1 lists seq 1 3             # foo is an Erlang node\n\n\
    Without --redis or REDIS_URL the node is found through its host and the epmd there.")]
pub struct CallArgs {
    /// What to call.
    #[command(flatten)]
    pub function: FunctionArgs,
    /// Print the result as JSON; the arguments stay in Erlang term syntax
    #[arg(long)]
    pub json: bool,
    /// How to reach the node.
    #[command(flatten)]
    pub caller: CallerArgs,
}

/// `redgrid cast`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  redgrid cast web@127.0.0.1 redgrid update_meta '[{weight,50}]'\n\n\
        Nobody hears whether the function exists or what it returns.\n\
        Without --redis or REDIS_URL the node is found through its host and the epmd there."
)]
pub struct CastArgs {
    /// What to call.
    #[command(flatten)]
    pub function: FunctionArgs,
    /// How to reach the node.
    #[command(flatten)]
    pub caller: CallerArgs,
}

/// `redgrid send`.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    redgrid send web@127.0.0.1 sink '{data,<<\"x\">>}'  # sink is there when the node runs with --echo\n\n\
    As in Erlang nobody hears whether the process exists.\n\
    Without --redis or REDIS_URL the node is found through its host and the epmd there.")]
pub struct SendArgs {
    /// The node
    #[arg(value_name = "NODE")]
    pub node: NodeName,
    /// The registered name of the process
    #[arg(value_name = "NAME")]
    pub process: String,
    /// What to send, in Erlang term syntax
    #[arg(allow_negative_numbers = true)]
    pub term: String,
    /// How to reach the node.
    #[command(flatten)]
    pub caller: CallerArgs,
}

/// `redgrid names`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  redgrid names\n  redgrid names 10.0.0.5 --json | jq '.[].name'\n\n\
        In a pipe each line is a name and a port."
)]
pub struct NamesArgs {
    /// The host whose epmd is asked
    #[arg(default_value = "127.0.0.1")]
    pub host: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The port of epmd.
    #[command(flatten)]
    pub epmd: EpmdPortArg,
}

/// `redgrid doctor`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    redgrid doctor                                    # this machine, the mesh, and what epmd here knows\n  \
    redgrid doctor web@10.0.0.5                       # that node as well\n  \
    redgrid doctor --sname web --listen 0.0.0.0:9100  # could a node be started like this?\n  \
    redgrid doctor --json | jq '.[]'\n\n\
    One line per check: ok, warning or problem, what is so, and the mend. Exit code 1 when there is a problem.\n\
    What only epmd here knows may be of another cluster: of those nodes there are warnings alone, unless they are named.\n\
    Nothing is changed; the nodes see a hidden one come and go.")]
pub struct DoctorArgs {
    /// Nodes to examine beside the members of the mesh
    #[arg(value_name = "NODE")]
    pub nodes: Vec<NodeName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The address that a node here would be reached at [also: LOCAL_IP] [default: the one of the name's host]
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// Where it would listen [default: any port]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// The other settings of a node.
    #[command(flatten)]
    pub caller: CallerArgs,
}

impl DoctorArgs {
    /// The flags as typed.
    pub fn flags(&self) -> Flags {
        let mut flags = self.caller.flags();
        flags.one("ip", self.ip.as_deref());
        flags.one("listen", self.listen.as_deref());
        flags
    }
}

/// `redgrid demo`.
#[derive(Args)]
#[command(after_help = "Examples:\n  redgrid demo\n  redgrid demo --once")]
pub struct DemoArgs {
    /// Show the session and end, instead of keeping the mesh until Ctrl-C
    #[arg(long)]
    pub once: bool,
}

/// Runs a command.
///
/// # Errors
/// It failed: one line says why, and what to do about it where something can be done.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Node(args) => node::run(&args).await,
        Command::Nodes(args) => list::nodes(&args).await,
        Command::Meta(args) => meta::run(&args).await,
        Command::Await(args) => list::wait(&args).await,
        Command::Ping(args) => client::ping(&args).await,
        Command::Call(args) => client::call(&args).await,
        Command::Cast(args) => client::cast(&args).await,
        Command::Send(args) => client::send(&args).await,
        Command::Names(args) => names::run(&args).await,
        Command::Doctor(args) => doctor::run(&args).await,
        Command::Suspend(args) => client::redgrid(&args, "suspend").await,
        Command::Resume(args) => client::redgrid(&args, "resume").await,
        Command::Demo(args) => demo::run(&args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "redgrid", &mut script);
            print(String::from_utf8_lossy(&script).trim_end())
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            print(String::from_utf8_lossy(&page).trim_end())
        }
    }
}

/// Prints a result. Whoever has closed our output has seen enough: that is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals end the process, which is what they are for.
        _ => std::future::pending().await,
    }
}

fn pair(raw: &str) -> Result<(String, String), String> {
    match raw.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::config::{Kind, SETTINGS};

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    fn flags_of(command: &clap::Command) -> BTreeSet<String> {
        let long = command.get_arguments().filter_map(|arg| arg.get_long());
        long.filter(|flag| *flag != "help")
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_definition_of_the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_the_node_is_a_setting_and_every_setting_a_flag() {
        let cli = Cli::command();
        let flags = flags_of(cli.find_subcommand("node").unwrap());
        // `timeout` belongs to the other commands.
        let settings = SETTINGS
            .iter()
            .filter(|setting| setting.has_flag && setting.key != "timeout");
        assert_eq!(
            flags,
            settings.map(|setting| setting.key.to_owned()).collect()
        );
    }

    #[test]
    fn bare_flags_are_switches_and_the_others_take_a_value() {
        let cli = Cli::command();
        for arg in cli.find_subcommand("node").unwrap().get_arguments() {
            let Some(setting) = SETTINGS
                .iter()
                .find(|setting| Some(setting.key) == arg.get_long())
            else {
                continue;
            };
            let bare = matches!(arg.get_action(), clap::ArgAction::SetTrue);
            assert_eq!(bare, setting.kind == Kind::Switch, "{}", setting.key);
        }
    }

    #[test]
    fn every_help_shows_an_example() {
        fn check(command: &clap::Command) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
            command
                .get_subcommands()
                .filter(|command| command.get_name() != "help")
                .for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn every_example_is_understood() {
        let mut found = 0;
        fn examples(command: &clap::Command, into: &mut Vec<String>) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            into.extend(
                help.lines()
                    .filter(|line| line.starts_with("  redgrid"))
                    .map(str::to_owned),
            );
            command
                .get_subcommands()
                .for_each(|command| examples(command, into));
        }
        let mut lines = Vec::new();
        examples(&Cli::command(), &mut lines);
        for line in lines {
            // What follows # | or > is for the reader and the shell.
            let words = line
                .split_whitespace()
                .take_while(|word| !["#", "|", ">"].contains(word));
            let typed = words.collect::<Vec<_>>().join(" ").replace('\'', "");
            assert!(
                parse(&typed).is_ok(),
                "{typed}: {}",
                parse(&typed).err().unwrap()
            );
            found += 1;
        }
        assert!(found > 20, "{found}");
    }

    #[test]
    fn bad_usage_exits_with_2() {
        for line in [
            "redgrid nodess",
            "redgrid node --nonsense",
            "redgrid node --name a@b.c --sname d",
            "redgrid node --cookie a --cookie-file b",
            "redgrid ping",
            "redgrid ping web",
            "redgrid meta set",
            "redgrid await",
            "redgrid await --nodes x",
            "redgrid await --nodes 1 --where lang",
            "redgrid completions klingon",
        ] {
            let error = parse(line)
                .err()
                .unwrap_or_else(|| panic!("{line} was taken"));
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        for line in ["redgrid --help", "redgrid node --help", "redgrid --version"] {
            assert_eq!(parse(line).err().unwrap().exit_code(), 0, "{line}");
        }
    }

    #[test]
    fn a_negative_number_is_an_argument_and_no_flag() {
        let Ok(Command::Call(call)) = parse("redgrid call a@b.c erlang abs -1 --json") else {
            panic!()
        };
        assert_eq!(call.function.args, ["-1"]);
        assert!(call.json);
    }
}
