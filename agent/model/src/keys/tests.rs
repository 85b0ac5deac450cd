//! What must hold for every format: by example, and for anything at all.

use proptest::prelude::*;

use super::*;

fn keys(format: Structure, paths: &[&str]) -> IgnoredKeys {
    IgnoredKeys { format, keys: paths.iter().map(|path| parse_path(path).expect("because it is a path")).collect() }
}

#[track_caller]
fn spliced_to(ignored: &IgnoredKeys, wanted: &str, found: &str, result: &str) {
    let is = String::from_utf8(splice(ignored, wanted.as_bytes(), found.as_bytes())).expect("because both are texts");
    assert_eq!(is, result);
    assert!(same(ignored, wanted.as_bytes(), is.as_bytes()), "the result is as wanted");
    assert_eq!(splice(ignored, wanted.as_bytes(), is.as_bytes()), is.as_bytes(), "once is enough");
}

#[test]
fn json_keeps_its_layout() {
    let ignored = keys(Structure::Json, &["server.port", "*.password", "token", "users.*.seen"]);
    let wanted =
        "{\n  \"server\": {\n    \"port\": 80,\n    \"host\": \"a\"\n  },\n  \"users\": [{\"name\": \"x\", \"seen\": 0}]\n}\n";
    let found = r#"{"users":[{"seen":17,"name":"y"},{"name":"z","seen":9}],"token":"t\"1","server":{"host":"b","password":null,"port":8080}}"#;
    spliced_to(
        &ignored,
        wanted,
        found,
        "{\n  \"token\": \"t\\\"1\",\n  \"server\": {\n    \"password\": null,\n    \"port\": 8080,\n    \"host\": \"a\"\n  },\n  \"users\": [{\"name\": \"x\", \"seen\": 17}]\n}\n",
    );
    spliced_to(&ignored, "{}", "{\"token\":1,\"server\":{\"port\":2,\"x\":3}}", "{\"token\": 1, \"server\": {\"port\": 2}}");
    spliced_to(&ignored, "{\"server\": {}}", "{\"server\":{\"port\":{\"a\":[1]}}}", "{\"server\": {\"port\": {\"a\": [1]}}}");
    spliced_to(&ignored, "{\"server\": null}", "{\"server\":{\"port\":2}}", "{\"server\": {\"port\": 2}}");
    spliced_to(&ignored, wanted, "{ \"token\": ", wanted);
}

#[test]
fn toml_keeps_its_comments() {
    let ignored = keys(Structure::Toml, &["server.port", "top", "state", "inline.a", "dotted.x", "deep.er.k", "list.0.n"]);
    let wanted = "# head\nname = 'x' # tail\ninline = { a = 1, b = 2 }\ndotted.y = 1\n\n[server] # the server\n# the port\nport = 80\nhost = \"a\"\n\n[deep.er.est]\nz = 1\n\n[[list]]\nn = 1\nm = 2\n";
    let found = "top = [1, 2]\nname = 'y'\ninline = { a = '''q''' }\n[server]\nport = 0x1F90\nextra = 1\n[state]\nsince = 2024-01-01\n[state.of]\nw = 1.50\n[[list]]\nn = \"one\"\n[[list]]\nn = 5\n[deep.er]\nk = true\n";
    spliced_to(
        &ignored,
        wanted,
        found,
        "state = { of = { w = 1.50 }, since = 2024-01-01 }\ntop = [1, 2]\n# head\nname = 'x' # tail\ninline = { a = '''q''', b = 2 }\ndotted.y = 1\n\n[server] # the server\n# the port\nport = 0x1F90\nhost = \"a\"\n\n[deep.er.est]\nz = 1\n\n[[list]]\nn = \"one\"\nm = 2\n\n[deep.er]\nk = true\n",
    );
    // TOML does not let a dotted table be opened again: the addition is given up, the rest is not.
    spliced_to(&ignored, "top = 1\ndotted.y = 1\n", "top = 2\ndotted.x = 3\n", "top = 2\ndotted.y = 1\n");
    spliced_to(&ignored, "[server]", "[server]\nport = 1", "[server]\nport = 1\n");
    spliced_to(&ignored, "inline = {}\n", "inline = {a=1}\n", "inline = { a = 1 }\n");
    assert!(same(&ignored, b"a = 10\n[server]\nport = 1\n", b"server = { port = 2 }\na = 0xA # ten\n"));
    assert!(!same(&ignored, b"a = \"1\"\n", b"a = 1\n") && !same(&ignored, b"a = []\n", b""));
}

#[test]
fn yaml_keeps_its_comments() {
    let ignored = keys(Structure::Yaml, &["server.port", "token", "list.*.seen", "empty", "flow.a", "text", "when.x"]);
    let wanted = "# head\nserver:\n  port: 80 # the port\n  host: a\nlist:\n  - name: x\n    seen: 1\n  - seen: 2\n    name: y\nempty:\nflow: {b: 1}\ntext: |\n  one\n  two\nlast: &a [1, 2]\nwhen:\n";
    let found = "server: {port: '0o17', host: b}\nlist:\n- {name: x, seen: [1, {a: b}]}\n- {name: y, seen: ~}\nempty: yes\nflow:\n  a: \"x: y\"\ntext: a # b\ntoken: !x 1\nwhen: {x: 1, y: 2}\n";
    spliced_to(
        &ignored,
        wanted,
        found,
        "# head\ntoken: !x \"1\"\nserver:\n  port: \"0o17\" # the port\n  host: a\nlist:\n  - name: x\n    seen: [1, {a: b}]\n  - seen: ~\n    name: y\nempty: yes\nflow: {a: \"x: y\", b: 1}\ntext: a\nlast: &a [1, 2]\nwhen: {x: 1}\n",
    );
    assert!(same(&ignored, b"a: x\nb: [1, true]\n", b"{\"b\": [1, True], \"a\": \"x\"}"));
    assert!(!same(&ignored, b"a: 1\n", b"a: \"1\"\n") && !same(&ignored, b"a: no\n", b"a: \"no\"\n"));
    assert!(judge(Structure::Yaml, b"a: 1\n---\nb: 2\n").is_err(), "a path does not say in which document");
    // Nine levels of nine aliases: small to write, too many values to read.
    let bomb: String = (1..9).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
        let list = vec![format!("*a{}", n - 1); 9].join(",");
        text + &format!("a{n}: &a{n} [{list}]\n")
    });
    assert_eq!(judge(Structure::Yaml, bomb.as_bytes()), Err(Unreadable::Deep));
}

#[test]
fn ini_and_units_keep_their_lines() {
    let ini = keys(Structure::Ini, &["server.port", "*.password", "top", "new", "'remote \"origin\"'.url"]);
    let wanted = "; head\ntop=1\n[server]\n  host = a ; not a comment\n  port: 80\n\n[db]\nuser = u\n";
    let found = "top = 2\n[db]\nuser=v\npassword = a\n  b\n[server]\nport = 8080\nport = 8081\n[new]\nx=1\n[remote \"origin\"]\n\turl = here\n\tfetch = all\n";
    spliced_to(
        &ini,
        wanted,
        found,
        "; head\ntop = 2\n[server]\n  host = a ; not a comment\n  port = 8080\n  port = 8081\n\n[db]\nuser = u\npassword = a\n  b\n\n[new]\nx=1\n\n[remote \"origin\"]\nurl = here\n",
    );
    assert!(same(&ini, b"[a]\nx = 1\ny=2", b"# c\n[a]\ny = 2\n[a]\nx: 1\n[db]\npassword=1\n"));
    assert!(!same(&ini, b"[a]\nx=1\nx=2\n", b"[a]\nx=2\nx=1\n"));
    let unit = keys(Structure::Systemd, &["Service.Environment", "Unit.Description"]);
    let wanted = "[Unit]\nDescription=a\n[Service]\nEnvironment=A=1\nExecStart=/bin/x \\\n  --y\nEnvironment=B=2\n";
    let found = "[Service]\nExecStart=/bin/z\nEnvironment=\nEnvironment=C=3 \\\n# why\n  D=4\n[Unit]\nDescription=b";
    spliced_to(
        &unit,
        wanted,
        found,
        "[Unit]\nDescription=b\n[Service]\nEnvironment=\nEnvironment=C=3 \\\n# why\n  D=4\nExecStart=/bin/x \\\n  --y\n",
    );
    assert!(judge(Structure::Systemd, b"[Service]\nnonsense\n").is_err());
}

#[test]
fn what_is_large_deep_or_no_text_is_not_read() {
    let ignored = keys(Structure::Json, &["a"]);
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for (format, text) in [(Structure::Json, deep.as_str()), (Structure::Yaml, &deep), (Structure::Toml, &format!("a = {deep}"))] {
        assert!(judge(format, text.as_bytes()).is_err(), "{format:?}");
        assert!(judge(format, &text.as_bytes()[..20]).is_err(), "{format:?}");
    }
    assert_eq!(judge(Structure::Ini, &vec![b'a'; MAX_FILE + 1]), Err(Unreadable::Large));
    assert_eq!(judge(Structure::Ini, b"a = \xff"), Err(Unreadable::Text));
    assert_eq!(splice(&ignored, b"{\"a\":1}", b"{\"a\":\xff}"), b"{\"a\":1}");
}

/// A value, written in each format by hand, so that what reads it is not what wrote it.
#[derive(Debug, Clone)]
enum Value {
    Number(i16),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

const NAMES: [&str; 6] = ["a", "b", "c", "port", "pass word", "d.e"];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![any::<i16>().prop_map(Value::Number), "[a-z:# '\"\\\\{}é-]{0,8}".prop_map(Value::Text)];
    leaf.prop_recursive(3, 24, 4, |inner| prop_oneof![prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List), map(inner)])
}

fn map(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let member = (prop::sample::select(NAMES.as_slice()).prop_map(str::to_owned), inner);
    prop::collection::vec(member, 0..5).prop_map(|mut members| {
        members.sort_by(|a, b| a.0.cmp(&b.0));
        members.dedup_by(|a, b| a.0 == b.0);
        Value::Map(members)
    })
}

fn write(value: &Value, format: Structure, indent: usize) -> String {
    let pad = " ".repeat(indent);
    match (value, format) {
        (Value::Number(n), _) => n.to_string(),
        (Value::Text(text), Structure::Yaml) if indent % 4 == 2 => format!("'{}'", text.replace('\'', "''")),
        (Value::Text(text), _) => json::quoted(text),
        (Value::List(list), _) => {
            let list: Vec<String> = list.iter().map(|value| write(value, Structure::Json, 0)).collect();
            // YAML wants even what stands in brackets indented.
            format!("[{}]", list.join(" , ")).replace('\n', if format == Structure::Yaml { " " } else { "\n" })
        }
        (Value::Map(members), Structure::Yaml) if !members.is_empty() => {
            let one =
                |(key, value): &(String, Value)| format!("\n{pad}{}: {} # c", json::quoted(key), write(value, format, indent + 2));
            members.iter().map(one).collect()
        }
        (Value::Map(_), Structure::Yaml) => "{}".to_owned(),
        (Value::Map(members), _) => {
            let one = |(key, value): &(String, Value)| {
                format!("{pad}{}: {}", json::quoted(key), write(value, Structure::Json, indent + 2))
            };
            format!("{{\n{}}}", members.iter().map(one).collect::<Vec<_>>().join(",\n"))
        }
    }
}

fn toml(root: &Value) -> Option<String> {
    fn inline(value: &Value) -> String {
        match value {
            Value::Map(members) => {
                let one = |(key, value): &(String, Value)| format!("{} = {}", json::quoted(key), inline(value));
                format!("{{{}}}", members.iter().map(one).collect::<Vec<_>>().join(", "))
            }
            Value::List(list) => format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(", ")),
            other => write(other, Structure::Json, 0),
        }
    }
    let Value::Map(members) = root else { return None };
    let (tables, plain): (Vec<_>, Vec<_>) =
        members.iter().partition(|(_, value)| matches!(value, Value::Map(list) if list.len() % 2 == 1));
    let line = |(key, value): &&(String, Value)| format!("{} = {} # c\n", json::quoted(key), inline(value));
    let mut text = plain.iter().map(line).collect::<Vec<_>>().concat();
    for (key, value) in tables {
        let Value::Map(members) = value else { continue };
        text += &format!("\n[{}] # t\n", json::quoted(key));
        text.extend(members.iter().map(|(key, value)| format!("{} = {}\n", json::quoted(key), inline(value))));
    }
    Some(text)
}

/// The one thing that cannot be taken over: a plain value where a table with a header is wanted.
fn header_meets_value(wanted: &Value, found: &Value) -> bool {
    let (Value::Map(wanted), Value::Map(found)) = (wanted, found) else { return false };
    let is_header = |value: &Value| matches!(value, Value::Map(list) if list.len() % 2 == 1);
    wanted.iter().any(|(key, value)| is_header(value) && found.iter().any(|(k, v)| k == key && !matches!(v, Value::Map(_))))
}

fn ini(root: &Value) -> Option<String> {
    let Value::Map(members) = root else { return None };
    let leaf = |key: &String, value: &Value| match value {
        Value::Number(n) => Some(format!("{key} = {n}\n")),
        Value::Text(text) => Some(format!("{key}={}\n", text.replace(['#', '\''], "x"))),
        _ => None,
    };
    let mut text: String = members.iter().filter_map(|(key, value)| leaf(key, value)).collect();
    for (key, value) in members {
        if let Value::Map(inner) = value {
            text += &format!("[{key}]\n# c\n");
            text.extend(inner.iter().filter_map(|(key, value)| leaf(key, value)));
        }
    }
    Some(text)
}

fn written(value: &Value, format: Structure) -> Option<String> {
    match format {
        Structure::Toml => toml(value),
        Structure::Ini => ini(value),
        Structure::Systemd => None,
        _ => Some(write(value, format, 0)),
    }
}

fn paths() -> impl Strategy<Value = Vec<Vec<String>>> {
    let part = prop_oneof![4 => prop::sample::select(NAMES.as_slice()).prop_map(str::to_owned), 1 => Just("*".to_owned()), 1 => Just("0".to_owned())];
    prop::collection::vec(prop::collection::vec(part, 1..4), 1..4)
}

/// What must hold whatever the two contents are.
fn holds_for(ignored: &IgnoredKeys, wanted: &[u8], found: &[u8]) -> Result<(), TestCaseError> {
    let result = splice(ignored, wanted, found);
    prop_assert!(same(ignored, wanted, &result), "other values than the wanted ones: {}", String::from_utf8_lossy(&result));
    let again = splice(ignored, wanted, &result);
    prop_assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&result), "it does not come to rest");
    prop_assert_eq!(same(ignored, wanted, found), same(ignored, found, wanted));
    if judge(ignored.format, wanted).is_ok() {
        prop_assert!(judge(ignored.format, &result).is_ok());
    }
    if judge(ignored.format, found).is_err() {
        prop_assert_eq!(&*result, wanted);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_ignored_values_are_the_found_ones_and_all_others_the_wanted(
        wanted in map(value()), found in map(value()), keys in paths(), at in 0usize..4,
    ) {
        let format = [Structure::Json, Structure::Toml, Structure::Yaml, Structure::Ini][at];
        let ignored = IgnoredKeys { format, keys };
        prop_assume!(format != Structure::Toml || !header_meets_value(&wanted, &found));
        let (Some(wanted), Some(found)) = (written(&wanted, format), written(&found, format)) else { return Ok(()) };
        prop_assert_eq!(judge(format, wanted.as_bytes()), Ok(()), "{}", wanted);
        prop_assert_eq!(judge(format, found.as_bytes()), Ok(()), "{}", found);
        holds_for(&ignored, wanted.as_bytes(), found.as_bytes())?;
        let result = splice(&ignored, wanted.as_bytes(), found.as_bytes());
        let read = |text| Document::read(format, text).expect("because it is well-formed");
        let (result, found, wanted) = (read(&result), read(found.as_bytes()), read(wanted.as_bytes()));
        let keys = Keys::new(&ignored.keys);
        prop_assert!(result.holds(&found, &wanted, &keys, true), "something that was found is gone");
    }

    #[test]
    fn two_contents_that_differ_only_in_what_is_ignored_are_the_same(wanted in map(value()), at in 0usize..4, name in 0usize..6, new in value()) {
        let format = [Structure::Json, Structure::Toml, Structure::Yaml, Structure::Ini][at];
        let ignored = IgnoredKeys { format, keys: vec![vec![NAMES[name].to_owned()]] };
        let Value::Map(mut members) = wanted.clone() else { return Ok(()) };
        members.retain(|(key, _)| key != NAMES[name]);
        let rest = members.len();
        members.push((NAMES[name].to_owned(), new));
        let other = Value::Map(members.clone());
        let (Some(wanted), Some(other)) = (written(&wanted, format), written(&other, format)) else { return Ok(()) };
        prop_assert!(same(&ignored, wanted.as_bytes(), other.as_bytes()));
        if rest > 0 && format != Structure::Ini {
            members[0].1 = Value::Text("another value, longer than any".to_owned());
            let third = written(&Value::Map(members), format).expect("because the others were");
            prop_assert!(!same(&ignored, wanted.as_bytes(), third.as_bytes()));
        }
    }

    #[test]
    fn nothing_makes_it_panic(
        wanted in "(\\[\\[?[a-z.]{1,3}\\]\\]?\n|[a-c]( ?[=:] ?)([0-9]|\"[a-z]\"|[|>&*!]a?|\\{|\\}|\\[|\\]|'''|)\n?|[ \t\n\r,#;\\\\-]|---|\\.\\.\\.|\\{\"a\":|\\PC){0,30}",
        found in "(\\[\\[?[a-z.]{1,3}\\]\\]?\n|[a-c]( ?[=:] ?)([0-9]|\"[a-z]\"|[|>&*!]a?|\\{|\\}|\\[|\\]|'''|)\n?|[ \t\n\r,#;\\\\-]|---|\\.\\.\\.|\\{\"a\":|\\PC){0,30}",
        keys in paths(), at in 0usize..5,
    ) {
        holds_for(&IgnoredKeys { format: Structure::ALL[at], keys }, wanted.as_bytes(), found.as_bytes())?;
    }

    #[test]
    fn a_content_cut_anywhere_is_no_trouble(wanted in map(value()), found in map(value()), keys in paths(), at in 0usize..4, cut in 0usize..200, with in any::<u8>()) {
        let format = [Structure::Json, Structure::Toml, Structure::Yaml, Structure::Ini][at];
        let (Some(wanted), Some(found)) = (written(&wanted, format), written(&found, format)) else { return Ok(()) };
        let mut found = found.into_bytes();
        let cut = cut.min(found.len());
        if with < 128 { found.truncate(cut) } else if let Some(byte) = found.get_mut(cut) { *byte = with ^ 0x80 }
        holds_for(&IgnoredKeys { format, keys }, wanted.as_bytes(), &found)?;
    }

    #[test]
    fn no_path_makes_it_panic(text in "([a-z.*'\" \\\\]|\\PC){0,20}") {
        if let Err(error) = parse_path(&text) {
            prop_assert!(error.at <= text.len());
        }
    }
}
