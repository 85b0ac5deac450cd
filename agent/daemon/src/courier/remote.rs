//! A source behind a network: what to ask for so that little comes, and what to do when the server cannot do that.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use gix_hash::ObjectId;
use gix_object::Kind;

use super::http::{Web, url_of};
use super::meter::{LinkError, Meter};
use super::pack::{Bounds, CPU, unpack};
use super::session::{Ask, Dial, Pointer, Server, Session};
use super::source::Location;
use super::store::{Found, Quota, Store};
use super::{CourierConfig, CourierError};

/// The most objects of one step ahead. A history that was rewritten far back brings more, and then only the tip counts.
const MAX_ADVANCE: u32 = 20_000;
/// The most objects of a whole tree, from a server that cannot send less.
const MAX_TREE: u32 = 100_000;
/// The most bytes of one step ahead.
const ADVANCE_BYTES: u64 = 32 << 20;
/// The largest object that is taken without anybody having asked for it by its id.
const UNASKED: u64 = 16 << 20;
/// The most commits that are looked through in the cache.
const MAX_WALK: usize = MAX_COMMITS as usize;
/// The most commits to take when their trees are too many: as many as the agent looks at where each has to be signed.
const MAX_COMMITS: u32 = 20_000;

/// A fetched object, or why not.
pub(super) enum Held {
    Here(Vec<u8>),
    Missing,
    TooLarge,
}

/// The network and the cache.
pub(super) struct Remote {
    session: Session,
    store: Store,
    meter: Rc<Meter>,
    max_bytes: u64,
    quota: Quota,
    /// The newest commit of this process's requests: all that a server of before protocol 2 can be asked for.
    tip: Option<ObjectId>,
}

impl Remote {
    pub(super) fn open(config: &CourierConfig, meter: Rc<Meter>) -> Result<Self, CourierError> {
        let source = &config.source;
        let quota = Quota { bytes: source.max_bytes.saturating_mul(2), objects: 40_000 };
        let store = Store::open(&config.cache, quota)?;
        let (dial, host) = match (&source.url, url_of(&source.url)) {
            (_, Some((url, tls))) => {
                let web = Web::new(source, url, tls, meter.clone())?;
                (Dial::Web { web, url: url.to_owned() }, url.to_owned())
            }
            (Location::Ssh { host, .. }, _) => (Dial::Ssh(Box::new(source.clone())), host.clone()),
            _ => return Err(CourierError::Request("a network for a local path")),
        };
        let session = Session::new(dial, host, meter.clone(), store.scratch(), config.cache.join("server"));
        Ok(Self { session, store, meter, max_bytes: source.max_bytes, quota, tip: None })
    }

    pub(super) fn poll(
        &mut self,
        reference: &str,
        beside: Option<&str>,
    ) -> Result<(Option<Pointer>, Option<Pointer>), CourierError> {
        let (pointer, beside) = self.session.poll(reference, beside)?;
        self.tip = pointer.map(|pointer| pointer.id).or(self.tip);
        Ok((pointer, beside))
    }

    /// Brings the commits from `have` to `tip` into the cache, and with them the trees that changed.
    pub(super) fn advance(&mut self, tip: ObjectId, have: Option<ObjectId>) -> Result<(), CourierError> {
        self.tip = Some(tip);
        if have == Some(tip) || self.reaches(tip, have)? {
            return Ok(());
        }
        self.store.trim_if_left()?;
        if have.is_some() {
            let (largest, total) = (self.largest(), self.quota.bytes);
            let limit = self.max_bytes.min(ADVANCE_BYTES);
            // Without their trees when those are too many: one by one, thousands of commits would be thousands of requests.
            for (filter, objects) in [("blob:none", MAX_ADVANCE), ("tree:0", MAX_COMMITS)] {
                let ask = Ask { wants: vec![tip], have, shallow: false, filter: Some(filter), limit };
                let plan = |server: Server| {
                    if filter == "tree:0" && !server.filters {
                        return Err(CourierError::Bound("the server cannot leave out trees".into()));
                    }
                    Ok((ask.clone(), Bounds { objects, object: largest(server), total, cpu: CPU }))
                };
                match self.fetch(tip.kind(), plan) {
                    Err(error) if is_bound(&error) => {}
                    other => return other.and_then(|()| self.expect(tip)),
                }
            }
        }
        self.only_tip(tip)?;
        self.expect(tip)
    }

    /// The tip alone; from a server that cannot filter, with its whole tree.
    fn only_tip(&mut self, tip: ObjectId) -> Result<(), CourierError> {
        let (max_bytes, total, largest) = (self.max_bytes, self.quota.bytes, self.largest());
        self.fetch(tip.kind(), |server| {
            let (objects, limit) = if server.filters { (16, 1 << 20) } else { (MAX_TREE, max_bytes) };
            let ask = Ask { wants: vec![tip], have: None, shallow: true, filter: Some("tree:0"), limit };
            Ok((ask, Bounds { objects, object: largest(server), total, cpu: CPU }))
        })
    }

    /// The largest object to take unasked. A server that cannot filter sends all that other hosts need, too.
    fn largest(&self) -> impl Fn(Server) -> u64 + use<> {
        let most = self.max_bytes.max(UNASKED);
        move |server| if server.filters { UNASKED } else { most }
    }

    fn expect(&self, id: ObjectId) -> Result<(), CourierError> {
        if self.store.has(&id) { Ok(()) } else { Err(CourierError::Missing(id)) }
    }

    /// Whether the cache already holds every commit from `tip` down to `have`.
    fn reaches(&self, tip: ObjectId, have: Option<ObjectId>) -> Result<bool, CourierError> {
        let Some(have) = have else { return Ok(self.store.has(&tip)) };
        let (mut seen, mut queue, mut met) = (HashSet::from([tip]), VecDeque::from([tip]), false);
        while let Some(id) = queue.pop_front() {
            let Found::Here(commit) = self.store.read(Kind::Commit, &id, UNASKED)? else { return Ok(false) };
            for parent in parents(&commit) {
                met |= parent == have;
                if parent != have && seen.insert(parent) {
                    queue.push_back(parent);
                }
            }
            if seen.len() > MAX_WALK {
                return Ok(false);
            }
        }
        Ok(met)
    }

    /// Makes sure that these objects are in the cache as far as the server has them. `Err` in `Ok`: that one is too large.
    pub(super) fn bring(&mut self, kind: Kind, ids: &[ObjectId], limit: u64) -> Result<Result<(), ObjectId>, CourierError> {
        let mut seen = HashSet::new();
        let missing: Vec<_> = ids.iter().copied().filter(|id| seen.insert(*id) && !self.store.has(id)).collect();
        if missing.is_empty() {
            return Ok(Ok(()));
        }
        self.store.trim_if_left()?;
        self.bring_these(kind, &missing, limit)
    }

    fn bring_these(&mut self, kind: Kind, ids: &[ObjectId], limit: u64) -> Result<Result<(), ObjectId>, CourierError> {
        let Some(first) = ids.first().copied() else { return Ok(Ok(())) };
        let (max_bytes, total, tip, largest) = (self.max_bytes, self.quota.bytes, self.tip, self.largest());
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let result = self.fetch(first.kind(), |server| {
            let shallow = matches!(kind, Kind::Commit | Kind::Tag);
            let mut ask = Ask { wants: ids.to_vec(), have: None, shallow, filter: Some("tree:0"), limit: max_bytes };
            // A wanted tag brings what it points at.
            let mut objects = if kind == Kind::Tag { count.saturating_mul(4) } else { count };
            if !server.by_id {
                ask.wants = vec![tip.ok_or(CourierError::NoSingleObjects)?];
                ask.shallow = true;
            }
            // Never below a mebibyte: the same buffers also hold what Git itself needs.
            let mut object = limit.max(1 << 20);
            if !server.by_id || !server.filters && kind != Kind::Blob {
                (objects, object) = (MAX_TREE, largest(server));
            }
            Ok((ask, Bounds { objects, object, total, cpu: CPU }))
        });
        match result {
            Err(error) if is_bound(&error) => match ids.len() {
                1 => Ok(Err(first)),
                // Too much at once, or one of them is too large: halves tell which.
                count => match self.bring_these(kind, &ids[..count / 2], limit)? {
                    Ok(()) => self.bring_these(kind, &ids[count / 2..], limit),
                    too_large => Ok(too_large),
                },
            },
            other => other.map(Ok),
        }
    }

    /// What the cache has of it.
    pub(super) fn held(&self, kind: Kind, id: &ObjectId, limit: u64) -> Result<Held, CourierError> {
        Ok(match self.store.read(kind, id, limit)? {
            Found::Here(content) => Held::Here(content),
            Found::TooLarge => Held::TooLarge,
            Found::OtherKind | Found::Nothing => Held::Missing,
        })
    }

    /// Leaves the cache within its quota.
    pub(super) fn tidy(&mut self) -> Result<(), CourierError> {
        self.store.trim_if_grown()
    }

    fn fetch(
        &mut self,
        hash: gix_hash::Kind,
        plan: impl Fn(Server) -> Result<(Ask, Bounds), CourierError>,
    ) -> Result<(), CourierError> {
        let (store, meter) = (&mut self.store, &self.meter);
        self.session
            .fetch(|server| plan(server).map(|(ask, _)| ask), |reader, server| unpack(reader, store, hash, plan(server)?.1, meter))
    }
}

fn is_bound(error: &CourierError) -> bool {
    matches!(error, CourierError::Bound(_) | CourierError::Link(LinkError::TooMuch(_)))
}

/// The parents that a raw commit names. The agent parses strictly; here it only saves a request.
fn parents(commit: &[u8]) -> impl Iterator<Item = ObjectId> + '_ {
    let head = commit.split(|b| *b == b'\n').take_while(|line| !line.is_empty());
    head.filter_map(|line| ObjectId::from_hex(line.strip_prefix(b"parent ")?).ok())
}
