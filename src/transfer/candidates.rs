//! The registries that may have an image: in which order they are asked, who is left, and who is asked as well while the
//! first is silent.
//!
//! What is called by its digest is the same everywhere, and the first answer counts. A tag is not: a path may be another one's
//! at the next registry. So the answer of the registry that was typed counts, whatever it is, and another one is asked for a tag
//! only when that one is away or silent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::answerer::{why_first, WhyFirst};
use super::attempt::Ledger;
use super::circuit::{note_answer, note_failure, note_refusal, note_success};
use super::connections::{Connection, Connections};
use super::peer::StandIn;
use super::persist::{persist, sleep, Standing};
use super::pull_budget::Budget;
use super::race::Race;
use super::registries::Registries;
use super::TransferError;
use crate::oci::{Digest, Reference};
use crate::progress::Progress;
use crate::registry::{Contents, Failure, RegistryError, Repository, Step};
use crate::store::Store;

/// A tag that another registry answered for counts when the first was silent for so many times the hedge.
const HEDGES_OF_TAG: u32 = 2;

/// Longest wait until a registry may be asked again that takes only so many pulls a minute.
const BUDGET_PATIENCE: Duration = Duration::from_secs(120);

/// What is asked of a repository, in a thread of its own.
pub(super) type Work<T> = dyn Fn(&Repository) -> Result<T, RegistryError> + Send + Sync;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// What a name means, which each registry says for itself.
    Tag,
    /// What is the same at all of them.
    Digest,
}

impl Subject {
    /// Whether the next registry is asked when one fails so.
    fn leads_on(self, failure: Failure) -> bool {
        match self {
            Self::Digest => failure.step() != Step::Fatal,
            Self::Tag => failure.leads_on_by_tag(),
        }
    }
}

/// The registries that may have an image.
pub(super) struct Candidates<'a> {
    store: &'a Store,
    progress: &'a dyn Progress,
    /// As it was typed.
    reference: Reference,
    all: Vec<Candidate>,
    /// The index of the one that was typed.
    named: usize,
    /// Why another one than that is asked first, if one is.
    why_first: Option<WhyFirst>,
    /// Indices of the candidates, whoever is asked first first.
    order: Mutex<Vec<usize>>,
    ledger: Ledger,
    hedge: Duration,
    pub(super) stall: Duration,
    /// Whether a blob may come by several connections.
    pub(super) ranges: bool,
}

struct Candidate {
    repository: Repository,
    /// Whether the configuration has it: of any other host nothing is kept that was mistyped perhaps.
    is_listed: bool,
    /// Given up for the rest of this image.
    is_gone: AtomicBool,
    budget: Budget,
    /// Whether a pull of this image was taken from the budget.
    is_counted: AtomicBool,
    connections: Connections,
}

/// What a request counts as, where a registry takes only so many pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Nothing,
    /// The first one of an image.
    Pull,
}

impl<'a> Candidates<'a> {
    /// Those of `reference`. Nothing is asked of anybody yet.
    ///
    /// # Errors
    ///
    /// [`TransferError::NotFound`] for a reference that is of no registry.
    pub(super) fn new(
        store: &'a Store,
        registries: &Registries,
        reference: &Reference,
        progress: &'a dyn Progress,
    ) -> Result<Self, TransferError> {
        let (host, name) = of_registry(reference)?;
        let hosts = registries.candidates(store, host, progress);
        let candidate = |host: &String| {
            let client = registries
                .client(host)
                .map_err(|error| failed(reference, vec![error]))?;
            Ok::<_, TransferError>(Candidate {
                repository: client.repository(name),
                is_listed: registries.is_known(host),
                is_gone: AtomicBool::new(false),
                budget: registries.budget(store, host, name),
                is_counted: AtomicBool::new(false),
                connections: registries.connections(store, host),
            })
        };
        let all = hosts.iter().map(candidate).collect::<Result<Vec<_>, _>>()?;
        let rules = registries.rules();
        let first = hosts.first().filter(|first| *first != host);
        let why_first = first.map(|first| why_first(store, registries, host, first, progress));
        Ok(Self {
            why_first,
            store,
            progress,
            reference: reference.clone(),
            order: Mutex::new((0..all.len()).collect()),
            named: hosts.iter().position(|one| one == host).unwrap_or_default(),
            all,
            ledger: Ledger::default(),
            hedge: rules.hedge,
            stall: rules.stall,
            ranges: rules.ranges,
        })
    }

    /// Who was asked so far, and is from now on.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether a registry takes only so many pulls.
    pub(super) fn has_budget(&self, index: usize) -> bool {
        self.all.get(index).is_some_and(|one| one.budget.per_minute.is_some())
    }

    /// Their hosts, by name.
    pub(super) fn hosts(&self) -> Vec<&str> {
        let mut hosts: Vec<&str> = self.all.iter().map(|one| one.repository.host()).collect();
        hosts.sort_unstable();
        hosts
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The repository of one of them.
    pub(super) fn repository(&self, index: usize) -> Option<&Repository> {
        self.all.get(index).map(|candidate| &candidate.repository)
    }

    /// The one that was typed, and `index`, if that is another one.
    pub(super) fn stand_in(&self, index: usize) -> Option<StandIn> {
        let shown = |index| self.repository(index).map(Repository::shown);
        let (named, asked) = (shown(self.named)?, shown(index)?);
        (index != self.named).then_some(StandIn { named, asked })
    }

    /// The host of `index`, which said what the reference means. Where that is not the one that was typed, it is said, with why: what a
    /// tag means each registry says for itself.
    pub(super) fn answered(&self, index: usize) -> Option<&str> {
        let (host, named) = (self.repository(index)?.host(), self.repository(self.named)?.host());
        if host == named || self.reference.digest().is_some() {
            return Some(host);
        }
        let attempts = self.ledger.attempts();
        let tried = attempts.iter().find(|attempt| attempt.registry == named);
        match (tried.and_then(|attempt| attempt.error.as_ref()), &self.why_first) {
            (Some(error), _) => self.progress.warn(&format!(
                "{} says what {} means: {named} was asked, and failed ({error})",
                host, self.reference
            )),
            (None, Some(why)) => why.tell(&self.reference, host, self.progress),
            (None, None) => {}
        }
        Some(host)
    }

    /// Who is asked first.
    pub(super) fn first(&self) -> Option<&Repository> {
        self.order().first().and_then(|index| self.repository(*index))
    }

    /// Those that are asked, the first first.
    fn order(&self) -> Vec<usize> {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = |index: &usize| {
            self.all
                .get(*index)
                .is_some_and(|one| !one.is_gone.load(Ordering::Relaxed))
        };
        let there: Vec<usize> = order.iter().copied().filter(is_there).collect();
        // All were given up: nobody knows better than to ask them again.
        if there.is_empty() {
            order.clone()
        } else {
            there
        }
    }

    /// Whoever answered when the first was silent is asked first from now on.
    fn prefer(&self, index: usize) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.sort_by_key(|other| *other != index);
    }

    /// Notes that one gave wrong bytes; it is asked last from now on.
    pub(super) fn gave_wrong(&self, index: usize, digest: &Digest, why: String) {
        let Some(repository) = self.repository(index) else {
            return;
        };
        let error = Contents::of(repository).wrong_blob(digest, why);
        self.ledger.fails(repository.host(), &error);
        if self.all.get(index).is_some_and(|one| one.is_listed) {
            note_refusal(self.store, repository.host(), error.word());
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.sort_by_key(|other| *other == index);
    }

    /// Whether there is somebody else to ask.
    pub(super) fn standing(&self, index: usize) -> Standing {
        match self.order().iter().any(|other| *other != index) {
            true => Standing::OneOfSeveral,
            false => Standing::Last,
        }
    }

    /// The connections to one of them, for blobs.
    pub(super) fn connections_to(&self, index: usize) -> Option<&Connections> {
        self.all.get(index).map(|one| &one.connections)
    }

    /// The connections to each of them.
    pub(super) fn connections(&self) -> Vec<(String, Connections)> {
        let of = |one: &Candidate| (one.repository.host().to_owned(), one.connections.clone());
        self.all.iter().map(of).collect()
    }

    /// A connection to whoever is asked first, which is waited for.
    pub(super) fn connect_first(&self) -> Option<(String, Connection)> {
        let first = self.order().first().and_then(|index| self.all.get(*index))?;
        Some((
            first.repository.host().to_owned(),
            first.connections.wait(self.progress),
        ))
    }

    /// Counts a pull of this image, if this request is the first of one; waits for at most `patience` until it may be.
    fn admit(&self, counts: Counts, index: usize, patience: Duration) -> Result<(), RegistryError> {
        let Some(candidate) = self.all.get(index).filter(|_| counts == Counts::Pull) else {
            return Ok(());
        };
        if candidate.is_counted.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let host = candidate.repository.host();
        let most = candidate.budget.per_minute.unwrap_or_default();
        match candidate.budget.take(patience) {
            Ok(wait) if wait.is_zero() => {}
            Ok(wait) => {
                let text = format!(
                    "{} s for {host}: {most} pulls of an image are allowed in a minute",
                    whole_seconds(wait)
                );
                self.progress.step("Waiting", &text);
                sleep(wait);
            }
            Err(wait) => {
                candidate.is_counted.store(false, Ordering::Relaxed);
                let seconds = whole_seconds(wait);
                let text = format!("this machine made {most} pulls of the image in the last minute (pulls_per_minute), the next one may be in {seconds} s");
                return Err(RegistryError::over_budget(host, text, wait));
            }
        }
        Ok(())
    }

    /// The error of all of them.
    pub(super) fn failed(&self, failures: Vec<RegistryError>) -> TransferError {
        failed(&self.reference, failures)
    }

    /// What `work` comes to at the first registry that answers, and which that is; one is asked after the other.
    pub(super) fn ask<T>(
        &self,
        subject: Subject,
        work: &dyn Fn(&Repository) -> Result<T, RegistryError>,
    ) -> Result<(usize, T), TransferError> {
        self.in_turn((subject, Counts::Nothing), work)
    }

    /// As [`ask`](Self::ask). Those that may not be asked just now come last, and are waited for then.
    fn in_turn<T>(
        &self,
        (subject, counts): (Subject, Counts),
        work: &dyn Fn(&Repository) -> Result<T, RegistryError>,
    ) -> Result<(usize, T), TransferError> {
        let (mut failures, mut later) = (Vec::new(), Vec::new());
        let order = self.order();
        for (at, index) in order.iter().copied().enumerate() {
            if let Err(error) = self.admit(counts, index, Duration::ZERO) {
                later.push((index, error));
                continue;
            }
            let is_last = at + 1 == order.len() && later.is_empty();
            match self.turn(subject, index, is_last, work) {
                Ok(value) => {
                    later
                        .iter()
                        .for_each(|(other, error)| self.give_up(subject, *other, error));
                    return Ok((index, value));
                }
                Err(error) => {
                    let is_over = self.is_over(subject, index, &error);
                    failures.push(error);
                    if is_over {
                        return Err(self.failed(failures));
                    }
                }
            }
        }
        for (at, (index, _)) in later.iter().enumerate() {
            let admitted = self.admit(counts, *index, BUDGET_PATIENCE);
            if let Err(error) = &admitted {
                self.give_up(subject, *index, error);
            }
            let is_last = at + 1 == later.len();
            match admitted.and_then(|()| self.turn(subject, *index, is_last, work)) {
                Ok(value) => return Ok((*index, value)),
                Err(error) => failures.push(error),
            }
        }
        Err(self.failed(failures))
    }

    /// Asks one registry, as often as its failures call for that.
    fn turn<T>(
        &self,
        subject: Subject,
        index: usize,
        is_last: bool,
        work: &dyn Fn(&Repository) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let Some(repository) = self.repository(index) else {
            let error = RegistryError::broken("ask", "", Failure::Setup, "there is no such registry".to_owned());
            return Err(error);
        };
        let standing = match is_last {
            true => Standing::Last,
            false => Standing::OneOfSeveral,
        };
        self.ledger.begins(repository.host());
        let done = persist(standing, || {
            work(repository).inspect_err(|error| self.ledger.stumbles(repository.host(), error))
        });
        match &done {
            Ok(_) => self.succeeds(index),
            Err(error) => self.give_up(subject, index, error),
        }
        done
    }

    /// Whether nobody else is asked when one fails so: what a tag means is for the registry to say that was typed.
    fn is_over(&self, subject: Subject, index: usize, error: &RegistryError) -> bool {
        (index == self.named || subject == Subject::Digest) && !subject.leads_on(error.failure())
    }

    /// What `work` comes to at the first registry that answers, and which that is. Whoever is silent for too long is not waited
    /// for: the next one is asked as well, and the first answer counts; for a tag that of the first registry, when it comes in
    /// time.
    pub(super) fn ask_first<T: Send + 'static>(
        &self,
        subject: Subject,
        work: Arc<Work<T>>,
    ) -> Result<(usize, T), TransferError> {
        self.race((subject, Counts::Nothing), work)
    }

    /// As [`ask_first`](Self::ask_first) for what is the same at all of them, and counts as a pull of the image.
    pub(super) fn fetch_first<T: Send + 'static>(&self, work: Arc<Work<T>>) -> Result<(usize, T), TransferError> {
        self.race((Subject::Digest, Counts::Pull), work)
    }

    fn race<T: Send + 'static>(
        &self,
        (subject, counts): (Subject, Counts),
        work: Arc<Work<T>>,
    ) -> Result<(usize, T), TransferError> {
        let order = self.order();
        let Some(first) = order
            .first()
            .copied()
            .filter(|_| order.len() > 1 && !self.hedge.is_zero())
        else {
            return self.in_turn((subject, counts), &|repository| work(repository));
        };
        let mut race = Race::new(first);
        let (began, mut asked) = (Instant::now(), Instant::now());
        let until_first_counts = began + self.hedge * HEDGES_OF_TAG;
        let mut waiting = order.iter().copied();
        let mut is_next_due = true;
        loop {
            if std::mem::take(&mut is_next_due) {
                if let Some(index) = waiting.next() {
                    asked = Instant::now();
                    self.start(counts, index, &work, &mut race);
                }
            }
            let is_last = waiting.len() == 0;
            let until = match (&race.held, is_last) {
                (Some(_), _) => until_first_counts,
                (None, true) => asked + self.stall * 2,
                (None, false) => asked + self.hedge,
            };
            match race.next(until) {
                Some((index, Ok(value))) => {
                    let counts = subject == Subject::Digest || index == first || !race.silent.contains(&first);
                    if counts || Instant::now() >= until_first_counts {
                        return Ok(self.won(subject, index, value, &race));
                    }
                    race.held = Some((index, value));
                }
                Some((index, Err(error))) => {
                    if let Some(repository) = self.repository(index) {
                        self.ledger.stumbles(repository.host(), &error);
                    }
                    let is_over = self.is_over(subject, index, &error);
                    race.failures.push((index, error));
                    if is_over {
                        return Err(self.lost(subject, race));
                    }
                    is_next_due = true;
                }
                None if race.held.is_none() && !is_last => is_next_due = true,
                None if race.held.is_none() => break,
                None => {}
            }
            let is_time = Instant::now() >= until_first_counts || !race.silent.contains(&first);
            if let Some((index, value)) = race.held.take_if(|_| is_time) {
                return Ok(self.won(subject, index, value, &race));
            }
            if waiting.len() == 0 && race.silent.is_empty() {
                break;
            }
        }
        // Once more, and with patience, when that can mend it.
        let is_mendable = |(_, error): &(usize, RegistryError)| error.step() == Step::Retry;
        if race.silent.is_empty() && race.failures.iter().any(is_mendable) {
            return self.in_turn((subject, counts), &|repository| work(repository));
        }
        for index in std::mem::take(&mut race.silent) {
            let Some(repository) = self.repository(index) else {
                continue;
            };
            let text = format!("it does not answer within {} s", (self.stall * 2).as_secs());
            let error = RegistryError::broken("ask", repository.host(), Failure::Silent, text);
            race.failures.push((index, error));
        }
        Err(self.lost(subject, race))
    }

    fn start<T: Send + 'static>(&self, counts: Counts, index: usize, work: &Arc<Work<T>>, race: &mut Race<T>) {
        let Some(repository) = self.repository(index) else {
            return;
        };
        self.ledger.begins(repository.host());
        if let Err(error) = self.admit(counts, index, Duration::ZERO) {
            let _ = race.tell.send((index, Err(error)));
            race.silent.push(index);
            return;
        }
        let (own_repository, own, tell) = (repository.clone(), Arc::clone(work), race.tell.clone());
        // Left behind when another one is faster: it ends by the time that a registry may be silent.
        let asked = std::thread::Builder::new().spawn(move || {
            let _ = tell.send((index, own(&own_repository)));
        });
        if asked.is_err() {
            let _ = race.tell.send((index, work(repository)));
        }
        race.silent.push(index);
    }

    fn won<T>(&self, subject: Subject, index: usize, value: T, race: &Race<T>) -> (usize, T) {
        for (other, error) in &race.failures {
            self.give_up(subject, *other, error);
        }
        self.succeeds(index);
        for other in &race.silent {
            self.was_silent(*other);
        }
        if race.first != index {
            self.prefer(index);
        }
        (index, value)
    }

    fn lost<T>(&self, subject: Subject, race: Race<T>) -> TransferError {
        for (index, error) in &race.failures {
            self.give_up(subject, *index, error);
        }
        self.failed(race.failures.into_iter().map(|(_, error)| error).collect())
    }

    fn succeeds(&self, index: usize) {
        let Some(repository) = self.repository(index) else {
            return;
        };
        if self.ledger.succeeds(repository.host()) {
            note_success(self.store, repository.host());
        }
    }

    fn was_silent(&self, index: usize) {
        let Some(repository) = self.repository(index) else {
            return;
        };
        let ms = self.hedge.as_millis();
        let why = format!("no answer within {ms} ms, and another registry was faster");
        self.ledger.gives_up(repository.host(), "timeout", why);
    }

    /// Notes why a registry did not do it. One that is away, or does not know us, is not asked again for this image.
    pub(super) fn give_up(&self, subject: Subject, index: usize, error: &RegistryError) {
        let Some(candidate) = self.all.get(index) else { return };
        let host = candidate.repository.host();
        self.ledger.fails(host, error);
        let failure = error.failure();
        if failure.is_outage() {
            note_failure(self.store, host, error.word());
        } else if (failure.is_refusal() || failure == Failure::WrongBytes) && candidate.is_listed {
            note_refusal(self.store, host, error.word());
        } else if failure == Failure::NotFound {
            note_answer(self.store, host);
        }
        let is_about_it = !matches!(failure, Failure::NotFound | Failure::WrongBytes | Failure::TooLarge);
        if is_about_it {
            candidate.is_gone.store(true, Ordering::Relaxed);
        }
        let leads_on = !self.is_over(subject, index, error) && self.standing(index) == Standing::OneOfSeveral;
        if leads_on && failure != Failure::NotFound {
            self.progress.warn(&format!("{error}; asking the next registry"));
        }
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// Host and repository of a reference.
pub(super) fn of_registry(reference: &Reference) -> Result<(&str, &str), TransferError> {
    match reference {
        Reference::Registry { host, repository, .. } => Ok((host, repository)),
        Reference::Local { .. } | Reference::Digest { .. } | Reference::Layout { .. } => Err(TransferError::NotFound {
            path: reference.to_string().into(),
            reason: "it is no image of a registry, which is called HOST/REPOSITORY[:TAG]".to_owned(),
        }),
    }
}

fn failed(reference: &Reference, failures: Vec<RegistryError>) -> TransferError {
    TransferError::Registry {
        reference: reference.to_string(),
        failures,
    }
}

#[cfg(test)]
mod tests;
