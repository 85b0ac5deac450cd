//! Small inputs that would cost much: files of the largest size that is read on a host, each bent on time, on memory or on the stack.
//!
//! The root agent reads these where anybody who may write the file can put them. They are made here, for a corpus of them would be many times as
//! large as all the rest. The engine does not find them: it looks at short inputs. Those that went off once are thrown in each run of the tests, all
//! others in the soak's.

use std::panic::{Location, catch_unwind};

use trimtab_model::keys::MAX_FILE;
use trimtab_tests::fuzz::run;

/// The most of a file that is as large as files may be.
const ROOM: usize = MAX_FILE - 200;

/// A unit again and again, up to the bound.
fn filled(unit: impl Fn(usize) -> String) -> String {
    let mut text = String::with_capacity(MAX_FILE);
    for number in 0.. {
        let next = unit(number);
        if text.len() + next.len() > ROOM {
            break;
        }
        text.push_str(&next);
    }
    text
}

/// The bombs of one format. All are thrown before it is said which of them went off.
struct Range {
    target: &'static str,
    off: Vec<String>,
}

impl Range {
    fn of(target: &'static str) -> Self {
        Self { target, off: Vec::new() }
    }

    /// As wanted and as found: all of it differs, and all of it comes over.
    #[track_caller]
    fn throw(&mut self, bomb: &str) {
        assert!(bomb.len() <= MAX_FILE, "a bomb of {} bytes is not even read", bomb.len());
        let line = Location::caller().line();
        let other = bomb.replace("=1", "=2").replace(":1", ":2").replace(": 1", ": 2");
        let input = ["*\n*.*", bomb, &other].join("\0");
        if let Err(why) = catch_unwind(|| run(self.target, input.as_bytes())) {
            let why = why.downcast::<String>().map_or_else(|_| "it does not say why".to_owned(), |why| *why);
            let (begin, why): (String, String) = (bomb.chars().take(60).collect(), why.chars().take(300).collect());
            self.off.push(format!("line {line}, {begin:?}: {why}"));
        }
    }

    fn end(self) {
        assert!(self.off.is_empty(), "{} bombs went off as {}:\n{}", self.off.len(), self.target, self.off.join("\n"));
    }
}

#[test]
fn many_keys() {
    let mut range = Range::of("keys_json");
    range.throw(&format!("{{{}\"z\":1}}", filled(|number| format!("\"k{number}\":1,"))));
    range.end();
    let mut range = Range::of("keys_yaml");
    range.throw(&filled(|number| format!("k{number}: 1\n")));
    range.end();
    let mut range = Range::of("keys_toml");
    range.throw(&filled(|number| format!("k{number}=1\n")));
    range.end();
}

#[test]
fn many_sections() {
    for target in ["keys_ini", "keys_systemd"] {
        let mut range = Range::of(target);
        range.throw(&filled(|number| format!("[k{number}]\nb=1\n")));
        range.throw(&format!("[k7]\n{}", filled(|number| format!("k{number}=1\n"))));
        range.end();
    }
}

#[test]
fn a_long_text_under_many_aliases_or_behind_many_tags() {
    let mut range = Range::of("keys_yaml");
    let half = "x".repeat(ROOM / 2);
    range.throw(&format!("a: &a {half}\nb: [{}1]\n", "*a,".repeat(ROOM / 2 / 3 - 8)));
    range.throw(&format!("%TAG !e! tag:{half}\n---\n[{}1]\n", "!e!a 1,".repeat(ROOM / 2 / 7 - 8)));
    // Anchors inside of anchors: each keeps all that is in it.
    let nested = (0..62).map(|number| format!("&n{number} [")).collect::<Vec<_>>().concat();
    range.throw(&format!("{nested}{}1{}", "1,".repeat(30_000), "]".repeat(62)));
    range.end();
}

#[test]
fn soak_json() {
    let mut range = Range::of("keys_json");
    let one = |number: usize| format!("\"k{number}\":1,");
    range.throw(&format!("{{{}\"z\":1}}", filled(one)));
    range.throw(&format!("{{{}\"z\":1}}", filled(|_| "\"a\":1,".to_owned())));
    range.throw(&format!("[{}1]", filled(|_| "1,".to_owned())));
    range.throw(&format!("[{}1]", filled(|_| "{},".to_owned())));
    // Each level is read again by the one around it.
    let (open, close) = ("[".repeat(63), "]".repeat(63));
    range.throw(&format!("{open}{}1{close}", filled(|_| "1,".to_owned())));
    let (open, close) = ("{\"k7\":".repeat(63), "}".repeat(63));
    let inner: String = filled(one).chars().take(ROOM - 600).collect();
    let inner = &inner[..inner.rfind(',').unwrap()];
    range.throw(&format!("{open}{{{inner}}}{close}"));
    range.throw(&filled(|_| "[".to_owned()));
    range.throw(&format!("\"{}\"", filled(|_| "\\u0041".to_owned())));
    range.end();
}

#[test]
fn soak_yaml() {
    let mut range = Range::of("keys_yaml");
    let names = |number: usize| format!("k{number}: 1\n");
    range.throw(&filled(names));
    range.throw(&filled(|_| "a: 1\n".to_owned()));
    range.throw(&filled(|_| "- 1\n".to_owned()));
    // A long text under an alias, as often as there is room.
    let half = "x".repeat(ROOM / 2);
    let aliases = filled(|_| "*a,".to_owned());
    range.throw(&format!("a: &a {half}\nb: [{}*a]\n", &aliases[..ROOM / 2 / 3 * 3]));
    range.throw(&format!("a: &a {half}\nk7:\n{}", &"- *a\n".repeat(ROOM / 2 / 5)));
    // The same for a tag, whose name is written out each time.
    range.throw(&format!("%TAG !e! tag:{half}\n---\n[{}1]\n", &"!e!a 1,".repeat(ROOM / 2 / 7)));
    range.throw(&format!("%TAG !e! tag:{half}\n---\n{}", &"!e!a : 1\n".repeat(ROOM / 2 / 9)));
    range.throw(&filled(|number| format!("&a{number} 1,")).replacen('&', "[&", 1));
    for part in [
        "[", "{", "- ", "? ", "a: ", "!a ", "&a ", "*a ", "\"", "'", "|\n", "%A B\n", "--- ", "# x\n", "\n", " ", "{a: ", "[a, ",
        "a\n",
    ] {
        range.throw(&filled(|_| part.to_owned()));
        range.throw(&format!("a: {}", filled(|_| part.to_owned())));
    }
    range.throw(&format!("a: {}", filled(|_| "b\n  ".to_owned())));
    range.throw(&format!("a: |\n{}", filled(|_| "  b\n".to_owned())));
    range.throw(&filled(|number| format!("{}a:\n", " ".repeat(number))));
    range.throw(&filled(|number| format!("k{number}: |\n >\n")));
    range.end();
}

#[test]
fn soak_toml() {
    let mut range = Range::of("keys_toml");
    range.throw(&filled(|number| format!("k{number}=1\n")));
    range.throw(&filled(|number| format!("[k{number}]\n")));
    range.throw(&filled(|_| "[[k7]]\n".to_owned()));
    range.throw(&format!("a=[{}1]\n", filled(|_| "1,".to_owned())));
    range.throw(&format!("a={{{}z=1}}\n", filled(|number| format!("k{number}=1,"))));
    // Keys of keys of keys.
    range.throw(&format!("{}a=1\n", filled(|_| "a.".to_owned())));
    range.throw(&format!("[{}a]\n", filled(|_| "a.".to_owned())));
    range.throw(&format!("[[{}a]]\n", filled(|_| "a.".to_owned())));
    range.throw(&format!("b={{{}a=1}}\n", filled(|_| "a.".to_owned())));
    range.throw(&filled(|number| format!("{}k{number}=1\n", "a.".repeat(50))));
    range.throw(&filled(|number| format!("[{}k{number}]\n", "a.".repeat(50))));
    range.throw(&filled(|number| format!("{}k{number}=1\n", "a.".repeat(500))));
    for part in ["[", "a=[", "{a=", "a={a=", "a=\"\"\"", "=", "a", ".", "#\n", "\"", "[[", "a=1979-05-27T07:32:00Z\n", "a=0x", "1_"]
    {
        range.throw(&filled(|_| part.to_owned()));
        range.throw(&format!("a={}", filled(|_| part.to_owned())));
    }
    range.end();
}

#[test]
fn soak_ini_and_units() {
    for target in ["keys_ini", "keys_systemd"] {
        let mut range = Range::of(target);
        range.throw(&filled(|number| format!("[k{number}]\nb=1\n")));
        range.throw(&format!("[k7]\n{}", filled(|number| format!("k{number}=1\n"))));
        range.throw(&format!("[k7]\n{}", filled(|_| "b=1\n".to_owned())));
        range.throw(&filled(|_| "[k7]\nb=1\n".to_owned()));
        range.throw(&format!("[k7]\na=\\\n{}", filled(|_| " b\\\n".to_owned())));
        range.throw(&filled(|_| "[k7]\n".to_owned()));
        range.throw(&filled(|_| "# a\n".to_owned()));
        range.throw(&filled(|_| "\n".to_owned()));
        range.end();
    }
    let mut range = Range::of("keys_ini");
    range.throw(&filled(|number| format!("k{number}\n")));
    range.throw(&filled(|_| "a\n".to_owned()));
    range.throw(&format!("a=1\n{}", filled(|_| " b\n".to_owned())));
    range.end();
}

#[test]
fn what_parsers_hold_before_values_are_counted() {
    let mut range = Range::of("keys_toml");
    range.throw(&filled(|number| format!("[[k{number}]]\na=1\n")));
    // As many as are read.
    range.throw(&(0..8_000).map(|number| format!("[[k{number}]]\na=1\n")).collect::<Vec<_>>().concat());
    range.end();
    let mut range = Range::of("keys_yaml");
    let nested = (0..62).map(|number| format!("&n{number} [")).collect::<Vec<_>>().concat();
    range.throw(&format!("{nested}{}1{}", "1,".repeat(ROOM / 2 - 300), "]".repeat(62)));
    range.throw(&format!("{nested}{}1{}", "1,".repeat(50_000), "]".repeat(62)));
    range.end();
}
