// SPDX-License-Identifier: Apache-2.0
//! From the command line to a verb.
//!
//! Flags behave as the docker CLI's (pflag): switches take `=true` and `=false`, the last of several
//! counts, an option takes the next word whatever it looks like. Only the chosen verb's flags are built.

use std::ffi::OsString;
use std::pin::Pin;

use clap::{Arg, ArgAction, Args, Command};

use crate::api::{Address, Api};
use crate::fail::{Fail, Result};
use crate::verbs;

/// What the flags before the verb say.
#[derive(Debug, Default, Clone)]
pub(crate) struct Context {
    host: Option<String>,
    pub(crate) config_dir: Option<String>,
}

impl Context {
    /// Connects to the daemon.
    pub(crate) async fn api(&self) -> Result<Api> {
        Api::connect(self.address()?).await
    }

    pub(crate) fn address(&self) -> Result<Address> {
        Address::choose(self.host.as_deref(), |name| std::env::var(name).ok())
    }
}

type Outcome = Pin<Box<dyn Future<Output = Result<u8>>>>;

struct Verb {
    name: &'static str,
    about: &'static str,
    run: fn(Context, Vec<OsString>) -> Outcome,
}

macro_rules! verbs {
    ($($name:literal $module:ident $about:literal)*) => {
        &[$(Verb {
            name: $name,
            about: $about,
            run: |context, argv| Box::pin(async move {
                let args: verbs::$module::Args = match parse($name, $about, argv.into_iter()) {
                    Ok(args) => args,
                    Err(error) => return usage($name, &error),
                };
                verbs::$module::run(&context, args).await
            }),
        }),*]
    };
}

/// By name, in the order that help shows them.
const VERBS: &[Verb] = verbs![
    "run" run "Create and run a new container from an image"
    "exec" exec "Execute a command in a running container"
    "ps" ps "List containers"
    "pull" pull "Download an image from a registry"
    "images" images "List images"
    "version" version "Show the Berth version information"
    "info" info "Display system-wide information"
    "attach" attach "Attach local standard input, output, and error streams to a running container"
    "create" create "Create a new container"
    "import" import "Import the contents from a tarball to create a filesystem image"
    "inspect" inspect "Return low-level information on containers and images"
    "kill" kill "Kill one or more running containers"
    "load" load "Load an image from a tar archive or STDIN"
    "logs" logs "Fetch the logs of a container"
    "port" port "List port mappings or a specific mapping for the container"
    "push" push "Upload an image to a registry"
    "restart" restart "Restart one or more containers"
    "rm" rm "Remove one or more containers"
    "rmi" rmi "Remove one or more images"
    "save" save "Save one or more images to a tar archive (streamed to STDOUT by default)"
    "start" start "Start one or more stopped containers"
    "stop" stop "Stop one or more running containers"
    "tag" tag "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"
    "check" check "Verify stored images, and mend what is damaged (berth system check)"
    "wait" wait "Block until one or more containers stop, then print their exit codes"
];

/// The long forms: noun, verb, and what stands for it.
fn long_form(noun: &str, verb: &str) -> Option<&'static [&'static str]> {
    Some(match (noun, verb) {
        ("container", "ls" | "list" | "ps") => &["ps"],
        ("container", "inspect") => &["inspect", "--type=container"],
        ("container", "remove") => &["rm"],
        ("image", "ls" | "list") => &["images"],
        ("image", "rm" | "remove") => &["rmi"],
        ("image", "inspect") => &["inspect", "--type=image"],
        ("system", "info") => &["info"],
        ("system", "check") => &["check"],
        ("container", verb) => {
            const SAME: &[&[&str]] = &[
                &["run"],
                &["exec"],
                &["attach"],
                &["create"],
                &["kill"],
                &["logs"],
                &["port"],
                &["restart"],
                &["rm"],
                &["start"],
                &["stop"],
                &["wait"],
            ];
            return SAME.iter().copied().find(|words| words[0] == verb);
        }
        ("image", verb) => {
            const SAME: &[&[&str]] = &[&["pull"], &["push"], &["import"], &["load"], &["save"], &["tag"]];
            return SAME.iter().copied().find(|words| words[0] == verb);
        }
        _ => return None,
    })
}

/// Runs what the command line says; gives the exit code.
pub(crate) async fn dispatch(argv: Vec<OsString>) -> Result<u8> {
    let mut argv = argv.into_iter();
    let mut context = Context::default();
    let word = loop {
        let Some(word) = argv.next() else {
            print_help()?;
            return Ok(0);
        };
        let word = word.into_string().map_err(|w| Fail::new(format!("{w:?} is not UTF-8")).code(125))?;
        if !word.starts_with('-') {
            break word;
        }
        let (flag, mut attached) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = |flag: &str| {
            let next = attached.take().map(OsString::from).or_else(|| argv.next());
            next.and_then(|v| v.into_string().ok())
                .ok_or_else(|| Fail::new(format!("flag needs an argument: {flag}")).code(125))
        };
        match flag.as_str() {
            "-H" | "--host" => context.host = Some(value(&flag)?),
            "--config" => context.config_dir = Some(value(&flag)?),
            "-l" | "--log-level" => drop(value(&flag)?),
            "-D" | "--debug" => {}
            "-v" | "--version" => {
                println!("Berth version {}", env!("CARGO_PKG_VERSION"));
                return Ok(0);
            }
            "-h" | "--help" => {
                print_help()?;
                return Ok(0);
            }
            joined if joined.starts_with("-H") => context.host = Some(joined[2..].to_owned()),
            _ => return Err(Fail::new(format!("unknown flag: {flag}\n\nSee 'berth --help'.")).code(125)),
        }
    };
    let mut rest: Vec<OsString> = argv.collect();
    let mut name = word.as_str();
    if matches!(name, "container" | "image" | "system") {
        let verb = rest.first().and_then(|v| v.to_str()).unwrap_or_default().to_owned();
        let Some(words) = long_form(name, &verb) else {
            return Err(unknown(&format!("{name} {verb}")));
        };
        rest.splice(..1, words[1..].iter().map(OsString::from));
        name = words[0];
    }
    if name == "help" {
        print_help()?;
        return Ok(0);
    }
    match VERBS.iter().find(|verb| verb.name == name) {
        Some(verb) => (verb.run)(context, rest).await,
        None => Err(unknown(name)),
    }
}

fn unknown(command: &str) -> Fail {
    Fail::new(format!(
        "berth: unknown command: berth {}\n\nRun 'berth --help' for more information",
        command.trim()
    ))
}

fn print_help() -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "Usage:  berth [OPTIONS] COMMAND\n\nRuns containers.\n\nCommands:")?;
    for verb in VERBS {
        writeln!(out, "  {:<10}  {}", verb.name, verb.about)?;
    }
    writeln!(
        out,
        "\nOptions:\n  -H, --host string    Daemon to connect to (unix:///path or tcp://host:port; also BERTH_HOST, DOCKER_HOST)\n      \
         --config string  Directory of config.json (credentials)\n  -v, --version        Print the version\n\n\
         'berth container VERB' and 'berth image VERB' work too. 'berth COMMAND --help' tells more."
    )?;
    Ok(())
}

/// In the docker CLI's words and with its codes: 125 for a flag, 1 for arguments that are missing.
fn usage(name: &str, error: &clap::Error) -> Result<u8> {
    use clap::error::{ContextKind, ErrorKind};
    let text = error.render().to_string();
    if !error.use_stderr() {
        print!("{text}");
        return Ok(0);
    }
    let named = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or_default();
    let usage = format!("\n\nUsage:  {}\n\nRun 'berth {name} --help' for more information", usage.trim());
    Err(match error.kind() {
        ErrorKind::UnknownArgument => {
            let what = named(ContextKind::InvalidArg);
            let kind = if what.starts_with('-') { "unknown flag" } else { "unexpected argument" };
            Fail::new(format!("{kind}: {what}{usage}")).code(125)
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues => Fail::new(format!(
            "berth: 'berth {name}' requires more arguments: {}{usage}",
            named(ContextKind::InvalidArg)
        )),
        _ => Fail::new(text.trim_end()).code(125),
    })
}

/// Reads a verb's own part of the command line.
pub(crate) fn parse<T: Args>(
    name: &'static str,
    about: &'static str,
    argv: impl Iterator<Item = OsString>,
) -> Result<T, clap::Error> {
    let command = Command::new(name)
        .bin_name(format!("berth {name}"))
        .about(about)
        .no_binary_name(true)
        .disable_help_flag(true)
        .args_override_self(true)
        .arg(Arg::new("help").long("help").action(ArgAction::Help).help("Print usage"));
    let mut command = T::augment_args(command).mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_name("bool")
            .value_parser(|text: &str| {
                super::flags::boolean(text).ok_or("a boolean (true, false) is expected")
            }),
        ArgAction::Set | ArgAction::Append if !arg.is_positional() && !arg.is_require_equals_set() => {
            arg.allow_hyphen_values(true)
        }
        _ => arg,
    });
    let mut matches = command.try_get_matches_from_mut(argv)?;
    T::from_arg_matches_mut(&mut matches)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn long_forms_name_verbs_that_are_there() {
        for (noun, verb) in [
            ("container", "ls"),
            ("container", "run"),
            ("image", "rm"),
            ("image", "pull"),
            ("system", "info"),
        ] {
            let words = long_form(noun, verb).unwrap();
            assert!(VERBS.iter().any(|v| v.name == words[0]), "{noun} {verb}");
        }
        assert!(long_form("container", "pull").is_none());
        assert!(long_form("image", "").is_none());
    }

    #[tokio::test]
    async fn every_verb_has_help_and_no_two_flags_of_one_name() {
        for verb in VERBS {
            let code = (verb.run)(Context::default(), vec!["--help".into()]).await.unwrap();
            assert_eq!(code, 0, "{}", verb.name);
        }
    }
}
