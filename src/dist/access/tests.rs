use super::*;
use proptest::prelude::*;

fn rules(allow: &[&str], deny: &[&str]) -> Rules {
    let mut rules = Rules::default();
    for text in allow {
        rules = rules.allow(text).unwrap();
    }
    for text in deny {
        rules = rules.deny(text).unwrap();
    }
    rules
}

fn function<'a>(module: &'a str, function: &'a str, arity: usize) -> Target<'a> {
    Target::Function {
        module,
        function,
        arity,
    }
}

fn may(rules: &Rules, peer: &str, target: Target<'_>) -> bool {
    rules.of(&peer.parse().unwrap()).decide(target).is_ok()
}

#[test]
fn without_a_rule_everything_is_allowed() {
    let open = Rules::default();
    assert!(open.of(&"a@h".parse().unwrap()).is_open());
    for target in [function("m", "f", 3), Target::Name("n"), Target::Unnamed] {
        assert!(may(&open, "a@h", target));
    }
}

#[test]
fn what_is_allowed_shuts_out_all_else_and_every_other_peer() {
    let rules = rules(&["billing@*=stock:count/1,orders"], &[]);
    let billing = "billing@10.0.0.5";
    assert!(may(&rules, billing, function("stock", "count", 1)));
    assert!(!may(&rules, billing, function("stock", "count", 2)));
    assert!(!may(&rules, billing, function("stock", "sell", 1)));
    assert!(may(&rules, billing, Target::Name("orders")));
    assert!(!may(&rules, billing, Target::Name("order")));
    assert!(may(&rules, billing, Target::Unnamed));
    for target in [
        function("stock", "count", 1),
        Target::Name("orders"),
        Target::Unnamed,
    ] {
        assert!(!may(&rules, "web@10.0.0.5", target), "{target}");
    }
}

#[test]
fn what_is_denied_stays_so_whatever_is_allowed() {
    let rules = rules(
        &["*", "web@h=redgrid:suspend/0"],
        &["web@*=redgrid:*,echo", "*=erlang:halt"],
    );
    assert!(!may(&rules, "web@h", function("redgrid", "suspend", 0)));
    assert!(!may(&rules, "web@h", Target::Name("echo")));
    assert!(may(&rules, "web@h", Target::Name("redgrid")));
    assert!(may(&rules, "db@h", function("redgrid", "suspend", 0)));
    assert!(!may(&rules, "db@h", function("erlang", "halt", 1)));
}

#[test]
fn a_peer_that_is_denied_everything_reaches_no_process_by_its_pid_either() {
    let all = rules(&[], &["bad@*=*"]);
    assert!(!may(&all, "bad@h", Target::Unnamed));
    assert!(may(&all, "good@h", Target::Unnamed));
    let functions = rules(&[], &["bad@*=*:*"]);
    assert!(!may(&functions, "bad@h", function("m", "f", 0)));
    assert!(may(&functions, "bad@h", Target::Name("n")));
    assert!(may(&functions, "bad@h", Target::Unnamed));
}

#[test]
fn what_otp_needs_of_a_node_is_kept_from_nobody() {
    let rules = rules(&["m:f"], &["*", "*@*=*,net_*"]);
    for name in ALWAYS {
        assert!(may(&rules, "a@h", Target::Name(name)), "{name}");
        let error = Rules::default().deny(name).unwrap_err();
        assert!(error.to_string().contains("cannot be denied"), "{error}");
    }
    assert!(!may(&rules, "a@h", function("rex", "call", 0)));
}

#[test]
fn a_peer_goes_on_to_the_next_one_within_a_text_and_no_further() {
    let text = " redgrid:nodes , a@*=x:y, z,\n *@b = w:*, * = v ";
    let read: Vec<String> = parse(text).unwrap().iter().map(Rule::to_string).collect();
    assert_eq!(
        read,
        ["*=redgrid:nodes", "a@*=x:y", "a@*=z", "*@b=w:*", "*=v"]
    );
    let two = rules(&["a@*=x:y", "z"], &[]);
    assert!(may(&two, "other@h", Target::Name("z")));
}

#[test]
fn operators_and_names_of_elixir_are_functions_like_others() {
    for (text, module, name, arity) in [
        ("erlang:=:=/2", "erlang", "=:=", 2),
        ("a@*=erlang:==/2", "erlang", "==", 2),
        ("erlang://2", "erlang", "/", 2),
        ("erlang:/", "erlang", "/", 2),
        ("erlang:/=/2", "erlang", "/=", 2),
        ("erlang:/=", "erlang", "/=", 2),
        ("Elixir.Stock.*:valid?/1", "Elixir.Stock.Item", "valid?", 1),
        ("m:*/2", "m", "anything", 2),
        ("m:f/*", "m", "f", 200),
        ("m*:f", "m", "f", 0),
    ] {
        let rules = rules(&[text], &[]);
        assert!(
            may(&rules, "a@::1", function(module, name, arity)),
            "{text}"
        );
    }
}

#[test]
fn what_is_no_rule_is_refused_with_the_mend() {
    for (text, words) in [
        ("", "names neither"),
        ("a:b,,c:d", "names neither"),
        ("a@h=", "names neither"),
        ("two words", "names neither"),
        ("'quoted':f", "without quotes"),
        ("billing=stock:*", "NAME@HOST=WHAT"),
        ("@h=stock:*", "NAME@HOST=WHAT"),
        ("a@b@c=stock:*", "NAME@HOST=WHAT"),
        ("a b@c=stock:*", "NAME@HOST=WHAT"),
        ("=stock:*", "NAME@HOST=WHAT"),
        ("stock:count/x", "no arity"),
        ("stock:count/256", "no arity"),
        ("stock:count/+1", "no arity"),
        ("count/1", "no module"),
        (":f", "names no function"),
        ("m:", "names no function"),
    ] {
        let error = Rules::default().allow(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text:?}: {error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn a_name_that_a_peer_sends_keeps_to_its_line() {
    let long = "x".repeat(255);
    for (name, told) in [
        ("stock", "stock".to_owned()),
        ("a\nb", "'a\\nb'".into()),
        ("", "''".into()),
        ("\u{1b}[31m", "'\\u{1b}[31m'".into()),
        (&long, format!("{}...", "x".repeat(80))),
    ] {
        assert_eq!(Target::Name(name).to_string(), told);
    }
    assert_eq!(function("m", "f g", 2).to_string(), "m:'f g'/2");
}

#[test]
fn a_few_lines_a_second_tell_of_refusals_and_the_rest_is_counted() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut audit = Audit::default();
    let told = (0..100).filter_map(|ms| audit.refused(at(ms))).count();
    assert_eq!(told, LINES as usize);
    assert_eq!(audit.rest(at(500)), None, "the second is not over");
    assert_eq!(audit.refused(at(1000)), Some(100 - u64::from(LINES)));
    assert_eq!(audit.rest(at(5000)), None, "that was told");
    for _ in 0..u64::from(LINES) + 7 {
        audit.refused(at(5000));
    }
    assert_eq!(audit.rest(at(6000)), Some(7));
    assert_eq!((audit.rest(at(7000)), audit.end()), (None, 0));
}

/// What `*` means, said in the shortest way.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| matches(rest, &text[at..])),
        Some((byte, rest)) => text.first() == Some(byte) && matches(rest, &text[1..]),
    }
}

fn word() -> impl Strategy<Value = String> {
    "[ab*é]{1,4}"
}

fn what() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        word(),
        (word(), word()).prop_map(|(m, f)| format!("{m}:{f}")),
        (word(), word(), 0..3u8).prop_map(|(m, f, a)| format!("{m}:{f}/{a}")),
    ]
}

fn item() -> impl Strategy<Value = String> {
    let peer = prop_oneof![
        Just("*".to_owned()),
        (word(), word()).prop_map(|(short, host)| format!("{short}@{host}")),
    ];
    (proptest::option::of(peer), what()).prop_map(|(peer, what)| match peer {
        Some(peer) => format!("{peer}={what}"),
        None => what,
    })
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(item(), 1..4).prop_map(|items| items.join(", "))
}

#[derive(Debug, Clone)]
enum Aim {
    Function(String, String, usize),
    Name(String),
    Unnamed,
}

impl Aim {
    fn target(&self) -> Target<'_> {
        match self {
            Self::Function(m, f, arity) => function(m, f, *arity),
            Self::Name(name) => Target::Name(name),
            Self::Unnamed => Target::Unnamed,
        }
    }
}

fn aim() -> impl Strategy<Value = Aim> {
    prop_oneof![
        ("[abé]{1,3}", "[abé]{1,3}", 0..3usize).prop_map(|(m, f, a)| Aim::Function(m, f, a)),
        "[abé]{1,3}".prop_map(Aim::Name),
        Just(Aim::Unnamed),
    ]
}

proptest! {
    #[test]
    fn a_star_stands_for_any_text(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
        prop_assert_eq!(Pattern(pattern.clone()).matches(&text), matches(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn a_rule_that_is_written_out_reads_back(text in text()) {
        let rules = parse(&text).unwrap();
        let again: Vec<String> = rules.iter().map(Rule::to_string).collect();
        prop_assert_eq!(parse(&again.join(",")).unwrap(), rules);
    }

    #[test]
    fn no_text_is_too_much_for_the_reader(text in "[ab:/=@*, é'\n\\PC]{0,40}") {
        let _ = parse(&text);
    }

    #[test]
    fn one_more_denial_never_opens_and_one_more_permission_never_shuts_what_is_shut_already(
        allow in proptest::collection::vec(text(), 1..3),
        deny in proptest::collection::vec(text(), 0..3),
        more in text(),
        aim in aim(),
        peer in "[ab]{1,3}@[ab]{1,3}",
    ) {
        let texts = |list: &[String]| list.iter().fold(Rules::default(), |rules, text| {
            rules.allow(text).unwrap()
        }).allow;
        let rules = Rules { allow: texts(&allow), deny: texts(&deny) };
        let before = may(&rules, &peer, aim.target());
        let denied = rules.clone().deny(&more).unwrap();
        let allowed = rules.allow(&more).unwrap();
        prop_assert!(before || !may(&denied, &peer, aim.target()));
        prop_assert!(!before || may(&allowed, &peer, aim.target()));
    }

    #[test]
    fn what_a_rule_denies_no_other_rule_allows(text in text(), aim in aim(), peer in "[ab]{1,3}@[ab]{1,3}") {
        let denied = Rules::default().deny(&text).unwrap();
        let both = denied.clone().allow("*").unwrap();
        prop_assert_eq!(may(&denied, &peer, aim.target()), may(&both, &peer, aim.target()));
    }
}
