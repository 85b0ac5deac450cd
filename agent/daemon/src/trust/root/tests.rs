//! What root files are taken, and that what is written is read back.

use super::*;

const ANN: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL5H6lzyyka+0EO7qctF56zGtbUFLZ0zN7GBeWfO6y/6";
const SAFE: &str = "minisign:RWTeOmPJUwpNvRTu30pKZ0hHhUNCZGNpzFqNOPBvFF+eX7HdFdkLXSII";

fn good() -> String {
    format!(
        "type = \"trimtab-root\"\nrepo = \"1b4e28ba-2fa1-11d2-883f-0016d3cca427\"\nversion = 2\nepoch = 1\n\
         [keys]\nann = \"{ANN}\"\nsafe = \"{SAFE}\"\n\
         [root]\nthreshold = 2\nkeys = [\"ann\", \"safe\"]\n\
         [release.production]\nthreshold = 2\nkeys = [\"safe\", \"ann\"]\n\
         [alive.production]\nthreshold = 1\nkeys = [\"ann\"]\n\
         [commit.main]\nkeys = [\"ann\"]\n"
    )
}

fn parse(text: &str) -> Result<Root, String> {
    Root::parse("1.toml", text).map_err(|findings| findings.draw(false))
}

#[test]
fn a_root_is_read_and_written() {
    let root = parse(&good()).unwrap();
    assert_eq!((root.version, root.epoch, root.keys.len()), (2, 1, 2));
    let role = &root.release[&"production".parse().unwrap()];
    let quorum = root.quorum(role);
    assert_eq!((quorum.threshold, quorum.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>()), (2, vec!["safe", "ann"]));
    assert_eq!(root.commit["main"].threshold, 1);
    assert_eq!(parse(&root.to_text()).unwrap(), root);
    // The comment of a key's line is nobody's name here.
    assert_eq!(parse(&good().replace(ANN, &format!("{ANN} ann@example.org"))).unwrap(), root);
}

#[test]
fn refusals_name_the_spot_and_what_to_do() {
    let same_point = {
        let root = parse(&good()).unwrap();
        let AnyKey::Ssh(ann) = &root.keys[0].key else { panic!("because it is one") };
        let point = ann.ed25519().unwrap().try_into().unwrap();
        format!("{MINISIGN}{}", crate::trust::minisign::MinisignKey::new([1; 8], point))
    };
    let cases = [
        (good().replace("trimtab-root", "root"), "1:8", "no root file"),
        (good().replace("1b4e", "1B4E"), "2:8", "UUID"),
        (good().replace("version = 2", "version = 0"), "3:11", "at least 1"),
        (good().replace("epoch = 1", "epoch = -1"), "4:9", "at least 1"),
        (good().replace("ann = ", "\"a n\" = "), "6:1", "plain name"),
        (good().replace(SAFE, ANN), "7:8", "called \"ann\""),
        (good().replace(SAFE, &same_point), "7:8", "called \"ann\""),
        (good().replace(SAFE, "openpgp:ABCD"), "7:8", "OpenPGP"),
        (good().replace(SAFE, &format!("cert-authority {ANN}")), "7:8", "an authority of certificates cannot stand here"),
        (good().replace(SAFE, "minisign:RWx"), "7:8", "not a minisign public key"),
        (
            good().replace("threshold = 2\nkeys = [\"ann\", \"safe\"]", "threshold = 3\nkeys = [\"ann\", \"safe\"]"),
            "9:13",
            "cannot be met",
        ),
        (good().replace("threshold = 1", "threshold = 0"), "15:13", "cannot be met"),
        (good().replace("[\"safe\", \"ann\"]", "[\"ann\", \"ann\"]"), "13:16", "named twice"),
        (good().replace("[\"safe\", \"ann\"]", "[\"bob\", \"ann\"]"), "13:9", "no usable key"),
        (good().replace("[commit.main]\nkeys = [\"ann\"]", "[commit.main]\nkeys = []"), "18:8", "no key is named"),
        (good().replace("[commit.main]", "[commit.\"ma in\"]"), "17:9", "name of a branch"),
        (good().replace("[release.production]", "[release.\"a/b\"]"), "11:10", "name of a channel"),
        (good().replace("[alive.production]", "[alive.\"x.alive\"]"), "14:8", "does not end in `.alive`"),
        (good().replace("[release.production]", "[release.draft]"), "11:10", "neither `draft` nor `status`"),
        (good().replace("[alive.production]", "[alive.status]"), "14:8", "neither `draft` nor `status`"),
        (good() + "threshold = 1\n", "19:1", "unknown field"),
        (good().replace("epoch = 1", "epoch = 1\nexpires = 1"), "5:1", "unknown field"),
        (good().replace("epoch = 1\n", ""), "", "epoch"),
    ];
    for (text, place, words) in cases {
        let drawn = parse(&text).expect_err(&text);
        assert!(drawn.contains(place) && drawn.contains(words), "{place} {words}\n{text}\n{drawn}");
    }
}

#[test]
fn all_problems_are_told_at_once_and_no_secret_is() {
    let secret = format!("minisign:RWRTY0IyAAAA{}", "B".repeat(200));
    let text = good().replace("version = 2", "version = 0").replace(SAFE, &secret).replace("threshold = 1", "threshold = 7");
    let findings = Root::parse("1.toml", &text).unwrap_err();
    // The version, the key, its two uses, the threshold.
    assert_eq!(findings.list.len(), 5, "{}", findings.draw(false));
    assert!(!findings.draw(false).contains("BBBBBB"), "{}", findings.draw(false));
}
