use num_bigint::BigInt;
use proptest::prelude::*;

use super::super::tests::any_term;
use super::super::{
    Atom, BitBinary, Pid, Port, Reference, Term, atom, binary, export, float, improper, int, list,
    map, nil, string, tuple,
};
use super::*;

fn bits(bytes: &[u8], used: u8) -> Term {
    Term::from(BitBinary::from((bytes.to_vec(), used)))
}

/// Terms and what `io:format("~0tp")` of OTP 25 prints of them.
fn printed_by_erl() -> Vec<(Term, &'static str)> {
    vec![
        (atom("ok"), "ok"),
        (atom("Ok"), "'Ok'"),
        (atom("a b"), "'a b'"),
        (atom(""), "''"),
        (atom("a@b"), "a@b"),
        (atom("foo@127.0.0.1"), "'foo@127.0.0.1'"),
        (atom("case"), "'case'"),
        (atom("cond"), "'cond'"),
        (atom("query"), "query"),
        (atom("é"), "é"),
        (atom("aé"), "aé"),
        (atom("λ"), "'λ'"),
        (atom("Éa"), "'Éa'"),
        (atom("ÿ"), "ÿ"),
        (atom("a÷"), "'a÷'"),
        (atom("1a"), "'1a'"),
        (atom("_a"), "'_a'"),
        (atom("a_B1"), "a_B1"),
        (atom("a\nb"), "'a\\nb'"),
        (atom("a'b"), "'a\\'b'"),
        (atom("a\"b"), "'a\"b'"),
        (atom("a\\b"), "'a\\\\b'"),
        (atom("a\0b"), "'a\\000b'"),
        (atom("a\u{1b}b\u{7f}"), "'a\\eb\\d'"),
        (atom("\u{85}"), "'\\205'"),
        (atom("a.b"), "'a.b'"),
        (list([int(1), int(2)]), "[1,2]"),
        (string("abc"), "\"abc\""),
        (string("a\nb\t\"\\'"), "\"a\\nb\\t\\\"\\\\'\""),
        (string("\u{8}\u{1b}\u{b}\u{c}\r"), "\"\\b\\e\\v\\f\\r\""),
        (list([int(0)]), "[0]"),
        (list([int(127)]), "[127]"),
        (list([int(128)]), "[128]"),
        (string("\u{a0}é"), "\"\u{a0}é\""),
        (string("aλ"), "[97,955]"),
        (improper([int(97)], atom("b")), "[97|b]"),
        (nil(), "[]"),
        (list([nil()]), "[[]]"),
        (binary(""), "<<>>"),
        (binary("a\n\""), "<<\"a\\n\\\"\">>"),
        (binary([1, 2]), "<<1,2>>"),
        (binary("é"), "<<\"é\"/utf8>>"),
        (binary([233]), "<<\"é\">>"),
        (binary("λ"), "<<206,187>>"),
        (binary([b'a', b'b', 200]), "<<\"abÈ\">>"),
        (binary([255, 254]), "<<\"ÿþ\">>"),
        (binary([194, 160]), "<<\"\u{a0}\"/utf8>>"),
        (binary([127]), "<<127>>"),
        (binary("a\0"), "<<97,0>>"),
        (bits(&[5], 3), "<<5:3>>"),
        (bits(&[1, 5], 3), "<<1,5:3>>"),
        (bits(b"abc\x05", 3), "<<97,98,99,5:3>>"),
        (tuple([]), "{}"),
        (tuple([atom("a"), int(1)]), "{a,1}"),
        (map([]), "#{}"),
        (
            map([
                (int(1), atom("a")),
                (float(1.0), atom("b")),
                (atom("a"), atom("c")),
                (string("s"), atom("d")),
                (binary("b"), atom("e")),
            ]),
            "#{1 => a,1.0 => b,a => c,\"s\" => d,<<\"b\">> => e}",
        ),
        (
            map([
                (atom("b"), int(1)),
                (atom("a"), map([(atom("d"), string("x"))])),
            ]),
            "#{a => #{d => \"x\"},b => 1}",
        ),
        (export("lists", "map", 2), "fun lists:map/2"),
        (export("A", "b c", 0), "fun 'A':'b c'/0"),
        (int(-5), "-5"),
        (
            super::super::bigint(BigInt::from(1) << 70),
            "1180591620717411303424",
        ),
        (list([float(1.0)]), "[1.0]"),
        (float(-0.0), "-0.0"),
    ]
}

#[test]
fn terms_print_as_erl_prints_them() {
    for (term, text) in printed_by_erl() {
        assert_eq!(print(&term), text);
    }
}

#[test]
fn what_erl_prints_is_read_back() {
    for (term, text) in printed_by_erl() {
        assert_eq!(parse(text).as_ref(), Ok(&term), "{text}");
    }
}

#[test]
fn words_that_newer_releases_reserve_are_quoted_and_read_either_way() {
    assert_eq!(print(&atom("maybe")), "'maybe'");
    assert_eq!(parse("[maybe, 'else', else]").unwrap(), {
        list([atom("maybe"), atom("else"), atom("else")])
    });
}

#[test]
fn floats_have_the_shortest_text_that_reads_back() {
    // From `float_to_binary(F, [short])` of OTP 25.
    for (value, text) in [
        (1.0, "1.0"),
        (0.1, "0.1"),
        (1.0e22, "1.0e22"),
        (1.0e23, "1.0e23"),
        (123456789.0, "123456789.0"),
        (1.0e15, "1.0e15"),
        (9007199254740991.0, "9007199254740991.0"),
        (9007199254740992.0, "9.007199254740992e15"),
        (1.2345678901234567e20, "1.2345678901234567e20"),
        (0.0001, "0.0001"),
        (1.0e-5, "1.0e-5"),
        (0.00012345, "1.2345e-4"),
        (5.0e-324, "5.0e-324"),
        (f64::MAX, "1.7976931348623157e308"),
        (123.456, "123.456"),
        (12345678901.5, "12345678901.5"),
        (100.0, "100.0"),
        (1.0e5, "1.0e5"),
        (123400000.0, "1.234e8"),
        (-1.5, "-1.5"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (4503599627370497.5, "4503599627370498.0"),
        (0.0011, "0.0011"),
        (0.012, "0.012"),
        (0.000123, "1.23e-4"),
        (1234567.125, "1234567.125"),
        // Half way between two texts of this length: the even one.
        (2156665549113946.0 + 0.25, "2156665549113946.2"),
    ] {
        assert_eq!(float_text(value), text);
    }
}

#[test]
fn what_has_no_syntax_is_printed_with_its_node() {
    let pid = Term::from(Pid::new("foo@127.0.0.1", 12, 3, 99));
    assert_eq!(print(&pid), "<'foo@127.0.0.1'.12.3>");
    let reference = Term::from(Reference::from(("foo@h", vec![1, 2, 3])));
    assert_eq!(print(&reference), "#Ref<foo@h.1.2.3>");
    let port = Term::from(Port::from(("foo@h", 5)));
    assert_eq!(print(&port), "#Port<foo@h.5>");
    let fun = Term::from(super::super::InternalFun::New {
        module: Atom::from("m"),
        arity: 0,
        pid: Pid::new("a@b", 1, 0, 1),
        free_vars: vec![],
        index: 2,
        uniq: [0; 16],
        old_index: 2,
        old_uniq: 77,
    });
    assert_eq!(print(&fun), "#Fun<m.2.77>");
}

#[test]
fn short_text_ends_where_it_must() {
    let long = list(vec![atom("abc"); 1000]);
    assert_eq!(print_short(&long, 10), "[abc,abc,a...");
    assert_eq!(print_short(&atom("abc"), 3), "abc");
    assert_eq!(print_short(&atom("abcd"), 3), "abc...");
    assert_eq!(format!("{:.5}", Printed(&long)), "[abc,...");
    let wide = super::super::bigint(BigInt::from(1) << 4_000_000);
    assert_eq!(print_short(&wide, 100), "<integer of 4000001 bits>");
}

#[test]
fn everything_one_may_write_is_read() {
    for (text, term) in [
        (" ok . ", atom("ok")),
        ("% why\n{a, % this\n b}.\n", tuple([atom("a"), atom("b")])),
        ("16#ff", int(255)),
        ("-16#Ff", int(-255)),
        ("36#z", int(35)),
        ("1_000_000", int(1_000_000)),
        ("+5", int(5)),
        ("- 5", int(-5)),
        ("$a", int(97)),
        ("$\\n", int(10)),
        ("$ ", int(32)),
        ("-$a", int(-97)),
        ("[$a,$λ]", list([int(97), int(955)])),
        ("1.5e-3", float(0.0015)),
        ("1.5E+3", float(1500.0)),
        ("-0.5", float(-0.5)),
        ("1_0.2_5", float(10.25)),
        ("\"a\" \"b\"\n \"c\"", string("abc")),
        ("\"\"", nil()),
        (
            r#""\x41\x{3bb}\101\e\s\^A\z\"""#,
            string("AλA\u{1b} \u{1}z\""),
        ),
        ("\"a\\\nb\"", string("ab")),
        ("'a\\x{3bb}'", atom("aλ")),
        ("<<\"ab\" \"c\">>", binary("abc")),
        ("<<\"aλ\"/utf8>>", binary("aλ")),
        ("<<955/utf8, $a, 1, -1>>", binary([206, 187, 97, 1, 255])),
        ("<< >>", binary("")),
        ("<<5:3>>", bits(&[5], 3)),
        ("<<1:1,0:1,63:6>>", binary([0b1011_1111])),
        ("<<1000:16,-2:12,1:4>>", binary([3, 232, 0xff, 0xe1])),
        ("<<1:4,\"a\">>", bits(&[0x16, 0x01], 4)),
        ("<<7:0>>", binary("")),
        ("{}", tuple([])),
        ("[a|[b|[c]]]", list([atom("a"), atom("b"), atom("c")])),
        ("[a|\"b\"]", list([atom("a"), int(98)])),
        ("[1|\"b\"]", list([int(1), int(98)])),
        ("[a|[b|c]]", improper([atom("a"), atom("b")], atom("c"))),
        ("#{ }", map([])),
        ("#{a=>1,a => 2}", map([(atom("a"), int(2))])),
        ("fun lists : map / 2", export("lists", "map", 2)),
        ("fun 'A':b/0", export("A", "b", 0)),
        ("'fun'", atom("fun")),
    ] {
        assert_eq!(parse(text).as_ref(), Ok(&term), "{text}");
    }
}

#[test]
fn what_is_no_term_is_told_with_its_place() {
    for (text, place, what) in [
        ("", (1, 1), "ends where a term is expected"),
        ("{a,\n  b", (2, 4), "ends where"),
        ("{a;b}", (1, 3), "not ';'"),
        ("a b", (1, 3), "one term is expected"),
        ("[a|b,c]", (1, 5), "\"]\" is expected"),
        ("[a,]", (1, 4), "a term is expected"),
        ("{a, Foo}", (1, 5), "'Foo'"),
        ("_", (1, 1), "variable"),
        ("λ", (1, 1), "'λ'"),
        ("case", (1, 1), "'case'"),
        ("<0.12.0>", (1, 1), "registered name"),
        ("#Ref<0.1.2.3>", (1, 1), "cannot be read"),
        ("#rec{a=1}", (1, 1), "as its tuple"),
        ("fun(X) -> X end", (1, 4), "fun module:function/arity"),
        ("fun a:b/256", (1, 12), "0 to 255"),
        ("\"abc", (1, 1), "never closed"),
        ("'abc\\", (1, 6), "ends in a backslash"),
        ("\"\\x{110000}\"", (1, 3), "no character"),
        ("\"\\xé\"", (1, 3), "no character"),
        ("1e5", (1, 1), "1.0e5"),
        ("1.0e400", (1, 1), "1.8e308"),
        ("1#0", (1, 1), "from 2 to 36"),
        ("2#2", (1, 3), "a digit is expected"),
        ("1__0", (1, 2), "one term"),
        ("-a", (1, 2), "a digit is expected"),
        ("<<256>>", (1, 3), "no byte"),
        ("<<\"aλ\">>", (1, 3), "/utf8"),
        ("<<1.5>>", (1, 3), "a float"),
        ("<<1/float>>", (1, 5), "only /utf8"),
        ("<<1:5000>>", (1, 5), "4096"),
        ("<<a>>", (1, 3), "a string or a number"),
        ("#{a}", (1, 4), "\"=>\" is expected"),
        ("#{#{a => 1} => 2}", (1, 3), "key"),
        ("a. b", (1, 4), "one term"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.line, error.column), place, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
    }
    let long = format!("'{}'", "a".repeat(256));
    assert!(parse(&long).is_err() && parse(&"a".repeat(256)).is_err());
    assert!(parse(&"9".repeat(100_001)).is_err());
    let error = parse("{a,\n  B}").unwrap_err();
    assert!(
        error.to_string().starts_with("line 2, column 3: "),
        "{error}"
    );
}

#[test]
fn the_deepest_text_fits_a_small_stack() {
    let reader = std::thread::Builder::new().stack_size(1 << 20);
    let done = reader.spawn(|| {
        for (open, close) in [("{", "}"), ("[", "]"), ("[a|", "]"), ("#{a => ", "}")] {
            let deep = |depth: usize| open.repeat(depth) + "a" + &close.repeat(depth);
            let term = parse(&deep(MAX_DEPTH)).unwrap();
            assert_eq!(parse(&print(&term)), Ok(term));
            assert!(parse(&deep(MAX_DEPTH + 1)).is_err());
            assert!(parse(&open.repeat(1_000_000)).is_err());
        }
    });
    done.unwrap().join().unwrap();
}

/// Whether it can be printed and read back: it holds no pid, port, reference or local fun.
fn has_syntax(term: &Term) -> bool {
    let all = |terms: &[Term]| terms.iter().all(has_syntax);
    match term {
        Term::Pid(_) | Term::Port(_) | Term::Reference(_) | Term::InternalFun(_) => false,
        Term::Tuple(tuple) => all(&tuple.elements),
        Term::List(list) => all(&list.elements),
        Term::ImproperList(list) => all(&list.elements) && has_syntax(&list.last),
        Term::Map(map) => map.map.values().all(has_syntax),
        _ => true,
    }
}

#[test]
fn a_long_term_is_broken_where_it_has_parts() {
    let text = "#{name => \"a node\",peers => [one@host,two@host,three@host],up => true}";
    let term = parse(text).unwrap();
    assert_eq!(print_wrapped(&term, 100), text);
    assert_eq!(
        print_wrapped(&term, 36),
        "#{name => \"a node\",\n  peers =>\n      [one@host,two@host,\n       three@host],\n  up => true}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_printed_is_read_back(term in any_term()) {
        let text = print(&term);
        if has_syntax(&term) {
            prop_assert_eq!(parse(&text).map_err(|e| format!("{e} in {text}")), Ok(term));
        } else {
            prop_assert!(parse(&text).is_err());
        }
    }

    #[test]
    fn what_is_printed_over_several_lines_is_the_same_but_for_white_space(
        term in any_term(),
        width in 0..100usize,
    ) {
        let (line, lines) = (print(&term), print_wrapped(&term, width));
        if line.chars().count() <= width.max(20) {
            prop_assert_eq!(&line, &lines);
        }
        if has_syntax(&term) {
            prop_assert_eq!(parse(&lines).map_err(|e| format!("{e} in {lines}")), Ok(term));
        }
        // In a quoted atom or a string it would stand for itself.
        let bare = |text: &str| text.replace([' ', '\n'], "");
        prop_assert_eq!(bare(&line), bare(&lines));
    }

    #[test]
    fn short_text_is_the_beginning_of_the_whole(term in any_term(), max in 0..60usize) {
        let (whole, short) = (print(&term), print_short(&term, max));
        if whole.chars().count() <= max {
            prop_assert_eq!(short, whole);
        } else {
            let cut: String = whole.chars().take(max).collect();
            prop_assert_eq!(short, cut + "...");
        }
    }

    #[test]
    fn every_float_reads_back(value: f64) {
        if value.is_finite() {
            let text = float_text(value);
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits());
            prop_assert!(text.contains('.'));
        }
    }

    #[test]
    fn any_text_is_a_term_or_an_error(text in "[\\[\\]{}<>#=|,.:/'\"\\\\$%a-cA-C0-9_ \n-]{0,40}") {
        if let Ok(term) = parse(&text) {
            let _ = print(&term);
        }
    }

    #[test]
    fn any_unicode_is_a_term_or_an_error(text in "\\PC{0,40}") {
        let _ = parse(&text);
    }
}
