//! Artifacts: what their templates come to on one host.

use super::template::{Context, Engine};
use crate::desired::{Artifact, Node};
use crate::finding::Findings;
use crate::fleet::read::Located;
use crate::fleet::{DeclaredArtifact, judge_digest, judge_size, judge_url};

/// What the bytes must be and where they are; `None` with the reasons in `findings` (or without a context, which is told elsewhere).
pub(super) fn resolve(
    engine: &Engine,
    declared: &DeclaredArtifact<'_>,
    context: Option<&Context>,
    findings: &mut Findings,
) -> Option<(Node, Artifact)> {
    let Some(context) = context else {
        compile(engine, declared, findings);
        return None;
    };
    let url = judged(engine, &declared.url, context, findings, |url| match judge_url(url) {
        Ok(()) => Ok(url.to_owned()),
        Err(why) => Err(format!("an artifact cannot be fetched from there: {why}")),
    });
    let size = judged(engine, &declared.size, context, findings, judge_size);
    let digest = judged(engine, &declared.sha256, context, findings, judge_digest);
    let (url, size, digest) = (url?, size?, digest?);
    Some((Node::File { digest, size }, Artifact { url, minisign: declared.minisign.clone() }))
}

/// Whether the templates are templates at all, for a component that no host gets.
pub(super) fn compile(engine: &Engine, declared: &DeclaredArtifact<'_>, findings: &mut Findings) {
    for text in [&declared.url, &declared.size, &declared.sha256] {
        engine.inline(text, None, findings);
    }
}

fn judged<T>(
    engine: &Engine,
    text: &Located<'_, String>,
    context: &Context,
    findings: &mut Findings,
    judge: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let rendered = engine.inline(text, Some(context), findings)?;
    judge(&rendered).map_err(|why| findings.at(text.place, why)).ok()
}
