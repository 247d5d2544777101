//! Settings as a whole: each level of precedence, what empty means, and that
//! every error says what and how to mend it.

use std::fs;
use std::path::PathBuf;

use super::name::tests::{BOX, FakeHost};
use super::sources::Sources;
use super::*;
use crate::grid::meta::MetaValue;

/// A user's surroundings: a home of their own, an environment, flags, a file.
struct User {
    home: tempfile::TempDir,
    env: Environment,
    flags: Flags,
}

impl User {
    /// With a cookie, so that a test about something else does not make one.
    fn new() -> User {
        let mut user = User::without_cookie();
        user.flags.one("cookie", Some("a cookie of enough length"));
        user
    }

    fn without_cookie() -> User {
        let home = tempfile::tempdir().unwrap();
        let mut user = User {
            home,
            env: Environment::new(),
            flags: Flags::default(),
        };
        let path = user.home.path().to_str().unwrap().to_owned();
        user.set("HOME", &path);
        user
    }

    fn set(&mut self, name: &str, value: &str) -> &mut User {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    fn flag(&mut self, key: &'static str, value: &str) -> &mut User {
        self.flags.many(key, &[value.to_owned()]);
        self
    }

    fn file(&mut self, text: &str) -> PathBuf {
        let path = self.home.path().join("redgrid.toml");
        fs::write(&path, text).unwrap();
        self.flag("config", path.to_str().unwrap());
        path
    }

    fn resolve(&self) -> Result<Resolved<Config>, ConfigError> {
        Config::resolve(self.flags.clone(), self.env.clone(), &BOX)
    }

    fn config(&self) -> Config {
        self.resolve().unwrap().config
    }

    fn error(&self) -> String {
        let error = self
            .resolve()
            .expect_err("the settings were taken")
            .to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }
}

fn found(user: &User, key: &'static str) -> Option<(Vec<String>, Origin)> {
    let sources = Sources::new(user.flags.clone(), user.env.clone()).unwrap();
    sources
        .find(key)
        .unwrap()
        .map(|found| (found.values, found.origin))
}

#[test]
fn without_any_setting_the_defaults_of_the_contract_hold() {
    let config = User::new().config();
    assert_eq!(config.name.as_str(), "redgrid@127.0.0.1");
    assert_eq!(config.mesh.redis.to_string(), "redis://127.0.0.1:6379/");
    assert!(!config.mesh.redis_named);
    assert_eq!(
        (config.mesh.domain.as_str(), config.mesh.version.as_str()),
        ("", "")
    );
    assert!(!config.mesh.any_version && !config.hidden && !config.echo);
    assert_eq!(config.ip, Ipv4Addr::LOCALHOST);
    assert!(config.meta.is_empty() && config.peers.is_empty());
    assert_eq!(
        (config.listen.ip.to_string().as_str(), config.listen.ports),
        ("127.0.0.1", 0..=0)
    );
    assert_eq!(
        config.epmd,
        EpmdConfig {
            mode: EpmdMode::Auto,
            port: 4369,
            addresses: vec![]
        }
    );
    assert_eq!(config.connect, Connect::All);
    assert_eq!(config.net_ticktime, Duration::from_secs(60));
    assert_eq!((config.max_frame, config.max_depth), (512 << 20, 10_000));
    assert_eq!(config.max_members, 20_000);
    assert_eq!(
        config.log,
        LogConfig {
            level: LogLevel::Info,
            format: LogFormat::Text
        }
    );
}

#[test]
fn each_place_counts_more_than_those_below_it() {
    for setting in SETTINGS.iter().filter(|setting| setting.key != "config") {
        let key = setting.key;
        // One text per level that every kind of setting takes as it is.
        let [flag, ours, heritage, file] = match setting.kind {
            Kind::Switch => ["true", "no", "", "true"],
            Kind::Entries => ["a=1", "b=2", "", "d=4"],
            Kind::One | Kind::List | Kind::Texts => ["first", "second", "third", "fourth"],
        };
        let mut user = User::without_cookie();
        assert_eq!(found(&user, key), None, "{key}");

        let path = user.file(&match setting.kind {
            Kind::Switch => format!("{key} = {file}"),
            Kind::One => format!("{key} = {file:?}"),
            Kind::List | Kind::Entries | Kind::Texts => format!("{key} = [{file:?}]"),
        });
        assert_eq!(
            found(&user, key),
            Some((vec![file.to_owned()], Origin::File(path, key)))
        );

        for name in setting.heritage.iter().rev() {
            user.set(name, heritage);
            assert_eq!(
                found(&user, key),
                Some((vec![heritage.to_owned()], Origin::Heritage(name)))
            );
        }

        let name = format!("REDGRID_{}", key.to_uppercase().replace('-', "_"));
        user.set(&name, ours);
        assert_eq!(
            found(&user, key),
            Some((vec![ours.to_owned()], Origin::Variable(name)))
        );

        user.flag(key, flag);
        assert_eq!(
            found(&user, key),
            Some((vec![flag.to_owned()], Origin::Flag(key)))
        );
    }
}

#[test]
fn the_heritage_names_are_those_of_the_contract() {
    let mut user = User::new();
    user.set("REDIS_URL", "redis://10.0.0.9:1/")
        .set("DOMAIN", "shop")
        .set("VERSION", "7")
        .set("LOCAL_IP", "10.0.0.5")
        .set("LOGLEVEL", "0")
        .set("ERL_EPMD_PORT", "14369")
        .set("ERL_EPMD_ADDRESS", "127.0.0.1,10.0.0.5");
    let config = user.config();
    assert_eq!(config.mesh.redis.expose(), "redis://10.0.0.9:1/");
    assert!(config.mesh.redis_named);
    assert_eq!(
        (config.mesh.domain.as_str(), config.mesh.version.as_str()),
        ("shop", "7")
    );
    assert_eq!(config.ip.to_string(), "10.0.0.5");
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!((config.epmd.port, config.epmd.addresses.len()), (14369, 2));
}

#[test]
fn an_empty_variable_counts_as_not_set_except_for_the_scope() {
    let mut user = User::new();
    user.set("REDGRID_EPMD_PORT", "")
        .set("ERL_EPMD_PORT", "14369")
        .set("REDIS_URL", "")
        .set("REDGRID_HIDDEN", "");
    user.set("DOMAIN", "shop").set("REDGRID_DOMAIN", "");
    let config = user.config();
    assert_eq!(config.epmd.port, 14369);
    assert!(!config.mesh.redis_named && !config.hidden);
    assert_eq!(config.mesh.domain, "");
}

#[test]
fn of_name_and_sname_the_one_from_the_higher_place_counts() {
    let mut user = User::new();
    user.file("name = \"file@10.0.0.1\"");
    user.set("REDGRID_SNAME", "env@localhost");
    assert_eq!(user.config().name.as_str(), "env@localhost");
    user.flag("name", "flag@127.0.0.1");
    assert_eq!(user.config().name.as_str(), "flag@127.0.0.1");
    user.flag("sname", "other@localhost");
    assert_eq!(
        user.error(),
        "--name and --sname exclude each other; give one of them"
    );
}

#[test]
fn every_kind_of_setting_can_stand_in_the_file() {
    let mut user = User::new();
    user.file(
        "name = \"web@10.0.0.5\"\nmeta = [\"weight=0\", \"note=a,b\"]\npeers = [\"10.0.0.0/8\"]\nepmd-port = 14369\n\
         hidden = true\nconnect = \"lang=rust,zone=eu\"\nnet-ticktime = 7\nmax-frame = \"64MiB\"\n",
    );
    let config = user.config();
    assert_eq!(config.meta.get("note"), Some(&MetaValue::from("a,b")));
    assert_eq!(config.peers[0].to_string(), "10.0.0.0/8");
    assert_eq!((config.epmd.port, config.hidden), (14369, true));
    assert!(matches!(config.connect, Connect::Matching(pairs) if pairs.len() == 2));
    assert_eq!(
        (config.net_ticktime.as_secs(), config.max_frame),
        (7, 64 << 20)
    );
    assert_eq!(
        (config.listen.ip.to_string().as_str(), config.listen.ports),
        ("0.0.0.0", 0..=0)
    );
}

#[test]
fn a_file_that_cannot_serve_is_told_without_its_secrets() {
    for (text, words) in [
        ("cookie = \"s3cret", "line 1 is not TOML"),
        ("hidden = true\ncookie = s3cret\n", "line 2 is not TOML"),
        ("nmae = \"s3cret\"", "there is no setting \"nmae\""),
        ("config = \"s3cret\"", "there is no setting \"config\""),
        ("hidden = \"s3cret\"", "write true or false"),
        (
            "meta = { weight = \"s3cret\" }",
            "write an array of strings",
        ),
        ("peers = [1]", "write an array of strings"),
        ("name = [\"s3cret\"]", "write a string or a number"),
    ] {
        let mut user = User::new();
        let path = user.file(text);
        let error = user.error();
        assert!(
            error.contains(words) && error.contains(path.to_str().unwrap()),
            "{error}"
        );
        assert!(!error.contains("s3cret"), "{error}");
    }
    let mut user = User::new();
    user.flag("config", "/nowhere/at/all.toml");
    assert!(
        user.error().contains("/nowhere/at/all.toml"),
        "{}",
        user.error()
    );
}

#[test]
fn each_bad_value_is_told_with_its_place_and_the_mend() {
    for (key, value, words) in [
        ("name", "web@box", "use --sname web@box"),
        ("sname", "web@a.b", "use --name web@a.b"),
        ("redis", "localhost:6379", "write redis://HOST:PORT/"),
        ("ip", "nowhere", "--ip ADDRESS"),
        ("meta", "weight", "write KEY=VALUE"),
        ("listen", "9100", "write ADDR:PORT"),
        ("epmd", "embeded", "write auto, embedded, external or none"),
        ("epmd-port", "0", "a number from 1 to 65535"),
        ("connect", "some", "write all, none or KEY=VALUE"),
        ("peers", "10.0.0.0/99", "write CIDRs"),
        ("net-ticktime", "soon", "whole seconds"),
        ("max-frame", "1KiB", "64MiB"),
        ("max-members", "0", "from 1 to"),
        ("max-depth", "3", "from 16 to"),
        ("allow", "stock=m:f", "NAME@HOST=WHAT"),
        ("deny", "m:f/x", "MODULE:FUNCTION/ARITY"),
        ("deny", "net_kernel", "other nodes would wait"),
        ("log-level", "loud", "write debug, info"),
        ("log-format", "xml", "write text or json"),
        ("cookie-file", "/nowhere/cookie", "no such file"),
    ] {
        // From a variable, because only then the place is not plain to the user.
        let name = format!("REDGRID_{}", key.to_uppercase().replace('-', "_"));
        let mut user = User::without_cookie();
        user.set(&name, value);
        let error = user.error();
        assert!(error.contains(words), "{error}");
        assert!(
            error.contains(&name) || ["ip", "cookie-file"].contains(&key),
            "{error}"
        );
    }
    let mut user = User::new();
    user.set("REDGRID_HIDDEN", "perhaps");
    assert_eq!(
        user.error(),
        "REDGRID_HIDDEN: \"perhaps\" is neither on nor off; write true or false"
    );
}

#[test]
fn bad_values_are_bad_usage_and_a_bad_machine_is_a_failure() {
    let code = |key, value| {
        User::without_cookie()
            .flag(key, value)
            .resolve()
            .err()
            .unwrap()
            .exit_code()
    };
    assert_eq!(code("epmd-port", "x"), 2);
    assert_eq!(code("name", "web@box"), 2);
    assert_eq!(code("cookie-file", "/nowhere/cookie"), 1);
    assert_eq!(
        code("sname", "web"),
        1,
        "the host resolves to a loopback address"
    );
}

#[test]
fn a_slip_of_the_pen_is_told_before_a_cookie_file_is_made() {
    let mut user = User::without_cookie();
    user.flag("net-ticktime", "soon");
    user.error();
    assert!(!user.home.path().join(".erlang.cookie").exists());
}

#[test]
fn a_cookie_that_was_made_is_said_aloud_without_showing_it() {
    let user = User::without_cookie();
    let Resolved { config, warnings } = user.resolve().unwrap();
    let path = user.home.path().join(".erlang.cookie");
    assert!(warnings[0].contains(path.to_str().unwrap()), "{warnings:?}");
    assert!(!warnings[0].contains(config.cookie.expose()));
    assert_eq!(user.resolve().unwrap().warnings, Vec::<String>::new());
}

#[test]
fn no_debug_output_of_the_settings_shows_a_secret() {
    let mut user = User::without_cookie();
    user.flag("cookie", "s3cret")
        .flag("redis", "redis://ann:s3cret@host/");
    assert!(!format!("{:?}", user.resolve().unwrap()).contains("s3cret"));
    user.flag("cookie", "s3cret\n");
    assert!(!user.error().contains("s3cret"));
}

#[test]
fn a_short_cookie_is_warned_about_off_the_loopback_only() {
    let short = |name: &str, listen: Option<&str>| {
        let mut user = User::without_cookie();
        user.flag("cookie", "fifteen letters").flag("name", name);
        if let Some(listen) = listen {
            user.flag("listen", listen);
        }
        user.resolve()
            .unwrap()
            .warnings
            .iter()
            .filter(|line| line.contains("15 characters"))
            .count()
    };
    assert_eq!(short("web@127.0.0.1", None), 0);
    assert_eq!(short("web@10.0.0.5", None), 1);
    assert_eq!(short("web@127.0.0.1", Some("0.0.0.0:0")), 1);

    let mut user = User::without_cookie();
    user.flag("cookie", "sixteen letters!")
        .flag("name", "web@10.0.0.5");
    assert_eq!(user.resolve().unwrap().warnings, Vec::<String>::new());
}

#[test]
fn a_node_that_nobody_can_reach_is_warned_about() {
    let mut user = User::new();
    user.flag("name", "web@10.0.0.5")
        .flag("listen", "127.0.0.1:9100");
    let warnings = user.resolve().unwrap().warnings;
    assert!(warnings[0].contains("--listen 0.0.0.0:0"), "{warnings:?}");
}

#[test]
fn a_secret_in_a_file_that_others_can_read_is_warned_about() {
    for (text, mode, count) in [
        ("cookie = \"a cookie of enough length\"", 0o644, 1),
        ("redis = \"redis://:pw@host/\"", 0o640, 1),
        ("cookie = \"a cookie of enough length\"", 0o600, 0),
        ("redis = \"redis://host/\"", 0o644, 0),
    ] {
        let mut user = User::new();
        let path = user.file(text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let warnings = user.resolve().unwrap().warnings;
        assert_eq!(
            warnings
                .iter()
                .filter(|line| line.contains("chmod 600"))
                .count(),
            count,
            "{text} {mode:o}"
        );
    }
}

#[test]
fn rules_are_read_whole_from_the_flags_the_environment_and_the_file() {
    let expected = Rules::default()
        .allow("billing@*=stock:count/1, orders")
        .and_then(|rules| rules.allow("redgrid:nodes"))
        .and_then(|rules| rules.deny("*@10.9.0.7=*"))
        .unwrap();
    let (first, second) = ("billing@*=stock:count/1, orders", "redgrid:nodes");
    let mut user = User::new();
    user.flags
        .many("allow", &[first.to_owned(), second.to_owned()]);
    user.set("REDGRID_DENY", "*@10.9.0.7=*");
    assert_eq!(user.config().access, expected);

    let mut user = User::new();
    user.file(&format!(
        "allow = [{first:?}, {second:?}]\ndeny = \"*@10.9.0.7=*\""
    ));
    assert_eq!(user.config().access, expected);

    // In one text a peer goes on to the next one.
    let mut user = User::new();
    user.set("REDGRID_ALLOW", &format!("{second}, {first}"));
    let one = Rules::default().allow(second).unwrap();
    assert_eq!(user.config().access, one.allow(first).unwrap());
}

#[test]
fn commas_in_the_environment_separate_entries_but_not_the_parts_of_a_term() {
    let entries = |text: &str| {
        let mut user = User::new();
        user.set("REDGRID_META", text);
        found(&user, "meta").unwrap().0
    };
    assert_eq!(entries("a=1, b=x"), ["a=1", "b=x"]);
    assert_eq!(entries("a:=[1,2],b=x"), ["a:=[1,2]", "b=x"]);
    assert_eq!(
        entries("a:=\"x,\\\",y\",b:='q,q'"),
        ["a:=\"x,\\\",y\"", "b:='q,q'"]
    );
    assert_eq!(
        entries("a:=#{k => 1, l => {2,3}},b=x"),
        ["a:=#{k => 1, l => {2,3}}", "b=x"]
    );
    assert_eq!(
        entries("a:=<<1,2>>,b:=$,,c=1"),
        ["a:=<<1,2>>", "b:=$,", "c=1"]
    );
    assert_eq!(
        entries("a=[1,b=2]"),
        ["a=[1", "b=2]"],
        "without := it is plain text"
    );
    assert_eq!(
        entries("a:=[1,b=2"),
        ["a:=[1,b=2"],
        "an open bracket takes the rest and is refused as a term"
    );
}

#[test]
fn meta_is_repeated_as_a_flag_and_comes_from_one_place() {
    let mut user = User::new();
    user.set("REDGRID_META", "zone=eu");
    user.flags
        .many("meta", &["weight=0".to_owned(), "note=a,b".to_owned()]);
    let config = user.config();
    assert_eq!(config.meta.len(), 2);
    assert_eq!(config.meta.get("weight"), Some(&MetaValue::Integer(0)));
    assert_eq!(config.meta.get("note"), Some(&MetaValue::from("a,b")));
}

#[test]
fn a_variable_of_ours_that_is_no_text_is_told_and_a_foreign_one_is_not() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = || std::ffi::OsString::from_vec(vec![0xff]);
    let mut user = User::new();
    user.env.insert("FOREIGN".to_owned(), bytes());
    assert!(user.resolve().is_ok());
    user.env.insert("LOCAL_IP".to_owned(), bytes());
    assert!(user.error().contains("LOCAL_IP"), "{}", user.error());
}

fn caller(user: &User) -> CallerConfig {
    CallerConfig::resolve(user.flags.clone(), user.env.clone(), &BOX)
        .unwrap()
        .config
}

fn name_for(caller: &CallerConfig, target: &str, host: &FakeHost) -> Result<String, String> {
    let name = caller.name_for(&target.parse().unwrap(), host);
    name.map(|name| name.to_string())
        .map_err(|error| error.to_string())
}

#[test]
fn a_caller_is_named_after_its_process_in_the_style_of_the_target() {
    let caller = caller(&User::new());
    let start = format!("redgrid-{}-", std::process::id());
    let nameless = FakeHost {
        name: "",
        full: None,
        ..BOX
    };
    let strange = FakeHost {
        name: "b x",
        full: Some("b x.example.com"),
        ..BOX
    };
    for (target, machine, host) in [
        ("web@127.0.0.1", &BOX, "127.0.0.1"),
        ("web@localhost", &BOX, "localhost"),
        ("web@10.0.0.5", &BOX, "box.example.com"),
        ("web@other", &BOX, "box"),
        ("web@10.0.0.5", &nameless, "127.0.0.1"),
        ("web@other", &nameless, "localhost"),
        ("web@10.0.0.5", &strange, "127.0.0.1"),
    ] {
        let name = name_for(&caller, target, machine).unwrap();
        assert!(
            name.starts_with(&start) && name.ends_with(&format!("@{host}")),
            "{name}"
        );
    }
    assert_ne!(
        name_for(&caller, "a@b.c", &BOX),
        name_for(&caller, "a@b.c", &BOX)
    );
}

#[test]
fn a_caller_never_takes_the_name_of_the_daemon_from_the_environment_or_the_file() {
    let mut user = User::new();
    user.set("REDGRID_NAME", "daemon@127.0.0.1");
    user.file("sname = \"daemon\"");
    assert!(
        !name_for(&caller(&user), "web@127.0.0.1", &BOX)
            .unwrap()
            .contains("daemon")
    );

    user.flag("name", "me@10.0.0.5");
    assert_eq!(
        name_for(&caller(&user), "web@127.0.0.1", &BOX).unwrap(),
        "me@10.0.0.5"
    );
    let error = name_for(&caller(&user), "web@box", &BOX).unwrap_err();
    assert!(
        error.contains("different name styles") && error.contains("--sname"),
        "{error}"
    );
}

#[test]
fn commands_take_the_mesh_from_the_same_places_and_log_less() {
    let mut user = User::new();
    user.set("DOMAIN", "shop")
        .set("REDGRID_TIMEOUT", "0.5")
        .flag("epmd-port", "14369");
    let caller = caller(&user);
    assert_eq!(
        (caller.mesh.domain.as_str(), caller.epmd_port),
        ("shop", 14369)
    );
    assert_eq!(caller.timeout, Some(Duration::from_millis(500)));
    assert_eq!(caller.log.level, LogLevel::Warning);

    let reader = ReaderConfig::resolve(user.flags.clone(), user.env.clone())
        .unwrap()
        .config;
    assert_eq!(reader.mesh.domain, "shop");
    assert_eq!(
        resolve_epmd_port(user.flags.clone(), user.env.clone()).unwrap(),
        14369
    );
}
