//! A group under everything at once: members come, go, vanish, change their minds, are slow; the coordinator moves.
//!
//! A member that does what a client does, and is never silent for its session, is never told that it is unknown. What it gets
//! is what the leader of that generation gave it.

use std::collections::HashMap;

use fastrand::Rng;

use super::*;

/// What a client is waiting for, or knows.
enum Doing {
    Joining(u64),
    Syncing(u64, Joined),
    Working(Joined),
}

struct Client {
    doing: Doing,
    id: String,
    topic: &'static str,
    /// Says nothing any more, and must not be waited for for ever.
    vanished: bool,
}

struct Crowd {
    story: Story,
    rng: Rng,
    clients: Vec<Client>,
    /// What the leader gave each member, by generation.
    given: HashMap<(i32, String), String>,
    generations: i32,
}

impl Crowd {
    fn join(&mut self, id: &str, topic: &'static str) -> Doing {
        let protocols = vec![("range".to_owned(), subscription(topic))];
        Doing::Joining(self.story.ask(GroupRequest::Join(Join { protocols, ..member(id) })))
    }

    fn arrive(&mut self) {
        let doing = self.join("", "t");
        self.clients.push(Client { doing, id: String::new(), topic: "t", vanished: false });
    }

    /// One client takes its next step, as far as it may.
    fn step(&mut self, at: usize) {
        if self.clients[at].vanished {
            return;
        }
        let (id, topic) = (self.clients[at].id.clone(), self.clients[at].topic);
        let next = match &self.clients[at].doing {
            Doing::Joining(token) => match self.story.answers.remove(token) {
                None => return,
                Some(GroupAnswer::Joined(Ok(joined))) => self.sync(at, joined),
                // The one reason there is: another join of its own has taken the place of this one.
                other => panic!("{id}: {other:?}"),
            },
            Doing::Syncing(token, joined) => match self.story.answers.remove(token) {
                None => return,
                Some(GroupAnswer::Synced(Ok(synced))) => {
                    let key = (joined.generation, joined.member.clone());
                    let mine = String::from_utf8(synced.assignment.to_vec()).unwrap();
                    assert_eq!(Some(&mine), self.given.get(&key), "what the leader gave it, whole");
                    Doing::Working(joined.clone())
                }
                Some(GroupAnswer::Synced(Err(
                    ResponseError::RebalanceInProgress | ResponseError::IllegalGeneration,
                ))) => self.join(&id, topic),
                other => panic!("{id}: {other:?}"),
            },
            Doing::Working(joined) => {
                let joined = joined.clone();
                match self.story.beat(&joined) {
                    Ok(()) => return,
                    Err(ResponseError::RebalanceInProgress | ResponseError::IllegalGeneration) => self.join(&id, topic),
                    Err(error) => panic!("{id} is a member: {error}"),
                }
            }
        };
        self.clients[at].doing = next;
    }

    fn sync(&mut self, at: usize, joined: Joined) -> Doing {
        self.generations = self.generations.max(joined.generation);
        self.clients[at].id.clone_from(&joined.member);
        let give = |id: &String| (id.clone(), format!("{id} in {}", joined.generation));
        let given: Vec<(String, String)> = joined.members.iter().map(|(id, ..)| give(id)).collect();
        let assignments = given.iter().map(|(id, what)| (id.clone(), Bytes::from(what.clone()))).collect();
        self.given.extend(given.into_iter().map(|(id, what)| ((joined.generation, id), what)));
        let token = self.story.ask(GroupRequest::Sync(Sync {
            group: "g".to_owned(),
            generation: joined.generation,
            member: joined.member.clone(),
            instance: None,
            protocol_type: Some("consumer".to_owned()),
            protocol: joined.protocol.clone(),
            assignments,
        }));
        Doing::Syncing(token, joined)
    }

    /// Something happens to one of them.
    fn happens(&mut self) {
        match self.rng.u32(0..20) {
            0 if self.clients.len() < 12 => self.arrive(),
            1 if !self.clients.is_empty() => {
                let at = self.rng.usize(..self.clients.len());
                self.clients[at].vanished = true;
            }
            2 => self.change_mind(),
            3 => self.leave(),
            _ => {}
        }
        for at in 0..self.clients.len() {
            if self.rng.u32(0..3) > 0 {
                self.step(at);
            }
        }
        self.story.pass(self.rng.u64(0..SESSION / 20));
    }

    fn change_mind(&mut self) {
        let working = |client: &Client| matches!(client.doing, Doing::Working(_)) && !client.vanished;
        let Some(at) = self.clients.iter().position(working) else { return };
        let topic = if self.clients[at].topic == "t" { "u" } else { "t" };
        let id = self.clients[at].id.clone();
        self.clients[at].topic = topic;
        self.clients[at].doing = self.join(&id, topic);
    }

    fn leave(&mut self) {
        let Some(at) = self.clients.iter().position(|client| matches!(client.doing, Doing::Working(_))) else { return };
        let client = self.clients.swap_remove(at);
        let members = vec![Leaving { member: client.id, instance: None }];
        let token = self.story.ask(GroupRequest::Leave { group: "g".to_owned(), members });
        assert!(matches!(self.story.answers.remove(&token), Some(GroupAnswer::Left(_))));
    }

    /// Left alone, those who live share everything.
    fn settles(&mut self) {
        self.clients.retain(|client| !client.vanished);
        for _ in 0..200 {
            (0..self.clients.len()).for_each(|at| self.step(at));
            self.story.pass(SESSION / 20);
        }
        let generations: Vec<i32> = self
            .clients
            .iter()
            .map(|client| match &client.doing {
                Doing::Working(joined) => joined.generation,
                _ => panic!("{} waits for ever", client.id),
            })
            .collect();
        assert!(generations.iter().all(|generation| *generation == generations[0]), "{generations:?}");
        let state = if self.clients.is_empty() { "Empty" } else { "Stable" };
        assert!(self.story.state().is_none_or(|is| is == state));
    }
}

#[test]
fn who_behaves_is_never_thrown_out_and_gets_what_the_leader_gave_it() {
    let mut generations = 0;
    for seed in 0..60 {
        let story = Story::new();
        let mut crowd =
            Crowd { story, rng: Rng::with_seed(seed), clients: vec![], given: HashMap::new(), generations: 0 };
        (0..3).for_each(|_| crowd.arrive());
        (0..300).for_each(|_| crowd.happens());
        crowd.settles();
        generations += crowd.generations;
    }
    assert!(generations > 500, "a lot happened: {generations}");
}
