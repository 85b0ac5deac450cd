//! `trimtab trust sign`: signatures on the newest root file, one by one.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Common, Signing, roots_of, show, write};
use crate::author::AuthorError;
use crate::author::desk::Desk;
use crate::author::roots::Roots;
use crate::author::signing::read_block;
use crate::trust::blocks::AnyKey;
use crate::trust::threshold::ROOT_NAMESPACE;

/// `trimtab trust sign`.
#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// Put this signature to it, made elsewhere: `minisign -S -m N.toml`, or `ssh-keygen -Y sign -n trimtab-root N.toml`. May be given several times.
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &SignArgs) -> Result<ExitCode, AuthorError> {
    let desk = Desk::open(&args.common.repo)?;
    let mut roots = roots_of(&desk)?;
    let number = roots.newest()?.root.version;
    let mut signed = Vec::new();
    for file in &args.attach {
        signed.push(roots.add(number, &read_block(file)?)?.name);
    }
    // Who brings a signature along is not asked for another one.
    if args.attach.is_empty() || !args.signing.sign.is_empty() {
        let (keys, _) = args.signing.keys(&desk);
        if keys.is_empty() {
            return Err(AuthorError::refused(
                "no key to sign with: name one with --sign ssh:FILE or --sign minisign:FILE, or tell git (`git config gpg.format ssh`, `git config user.signingkey FILE`)",
            ));
        }
        for key in keys {
            let text = roots.newest()?.text.clone();
            let block = key.sign(namespace(), text.as_bytes(), &format!("trimtab-root {number}"))?;
            signed.push(roots.add(number, &block)?.name);
        }
    }
    write(&desk, &roots)?;
    show::tell(&roots, &signed, args.common.json)
}

/// Signs the newest version with every key that is there; git's own key only if it counts. The names of who signed.
pub(super) fn sign_all(desk: &Desk, roots: &mut Roots, signing: &Signing) -> Result<Vec<String>, AuthorError> {
    let (keys, named) = signing.keys(desk);
    let (number, text) = (roots.newest()?.root.version, roots.newest()?.text.clone());
    let mut signed = Vec::new();
    for key in keys {
        // Nobody asked for git's own key: it is not even tried where it does not count.
        let counts =
            |public: &AnyKey| roots.0.iter().rev().take(2).any(|one| one.root.keys.iter().any(|named| named.key == *public));
        if !named && !key.public().is_some_and(|public| counts(&public)) {
            continue;
        }
        let block = key.sign(namespace(), text.as_bytes(), &format!("trimtab-root {number}"))?;
        match roots.add(number, &block) {
            Ok(who) => signed.push(who.name),
            Err(error) if named => return Err(error),
            Err(_) => {}
        }
    }
    Ok(signed)
}

fn namespace() -> &'static str {
    std::str::from_utf8(ROOT_NAMESPACE).expect("because it is a word")
}
