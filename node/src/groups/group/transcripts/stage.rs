//! Plays a script to a group and writes down what it answers.

use super::super::*;

/// One group, its clock, and a log that answers at once unless told to hold.
struct Stage {
    group: Group,
    now: Now,
    /// By name: the member id it was given last.
    ids: BTreeMap<String, String>,
    given: usize,
    tickets: BTreeMap<Ticket, String>,
    holds: bool,
    held: Vec<Then>,
    out: String,
}

pub(super) fn play(script: &str) -> String {
    let now = Now { monotonic_ms: 0, wall_ms: 1_000_000 };
    let (ids, tickets) = (BTreeMap::new(), BTreeMap::new());
    let mut stage = Stage { group: Group::new(now), now, ids, given: 0, tickets, holds: false, held: Vec::new(), out: String::new() };
    for line in script.lines().map(str::trim).filter(|line| line.starts_with('>')) {
        stage.out.push_str(&format!("{line}\n"));
        let words = line[1..].split_whitespace().collect::<Vec<_>>();
        stage.command(words[0], &words[1..]);
    }
    stage.out
}

/// Asserts that a script comes out as it is written.
pub(super) fn holds(script: &str) {
    let expected = script.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect::<String>();
    let played = play(script);
    assert!(played == expected, "played:\n{played}\nexpected:\n{expected}");
}

/// The word behind `name`.
fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().position(|word| *word == name).map(|at| words[at + 1])
}

impl Stage {
    fn say(&mut self, line: String) {
        self.out.push_str(&line);
        self.out.push('\n');
    }

    fn id(&self, words: &[&str]) -> String {
        option(words, "as").map(str::to_owned).or_else(|| self.ids.get(words[0]).cloned()).unwrap_or_default()
    }

    fn command(&mut self, verb: &str, words: &[&str]) {
        let mut effects = Vec::new();
        let (now, instance) = (self.now, option(words, "static").map(str::to_owned));
        let generation = option(words, "gen").map_or(-1, |text| text.parse().expect("a generation"));
        match verb {
            "join" => self.join(words, instance, &mut effects),
            "sync" => self.sync(words, instance, generation, &mut effects),
            "heartbeat" | "commit" => {
                let id = self.id(words);
                let answer = match verb {
                    "heartbeat" => self.group.heartbeat(&id, instance.as_deref(), generation, now),
                    _ => self.group.check_commit(&id, instance.as_deref(), generation, now),
                };
                self.say(answer.map_or_else(|error| format!("{error:?}"), |()| "ok".to_owned()));
            }
            "leave" => {
                let id = if instance.is_some() { String::new() } else { self.id(words) };
                let answer = self.group.leave(&id, instance.as_deref(), now, &mut effects);
                self.say(answer.map_or_else(|error| format!("{error:?}"), |()| "ok".to_owned()));
            }
            "wait" => return self.wait(words[0].parse().expect("milliseconds")),
            "hold" => self.holds = true,
            "release" => {
                self.holds = false;
                for then in std::mem::take(&mut self.held) {
                    self.group.stored(then, now, &mut effects);
                }
            }
            "state" => {
                let members = self.group.members.keys().cloned().collect::<Vec<_>>().join(" ");
                self.say(format!("{} gen {} [{members}]", self.group.state().name(), self.group.generation));
            }
            "delete" => {
                let answer = self.group.begin_delete();
                self.say(answer.map_or_else(|error| format!("{error:?}"), |()| "ok".to_owned()));
            }
            other => panic!("no such command: {other}"),
        }
        self.perform(effects);
    }

    fn join(&mut self, words: &[&str], instance_id: Option<String>, effects: &mut Vec<Effect>) {
        self.given += 1;
        let ticket = self.given as Ticket;
        self.tickets.insert(ticket, words[0].to_owned());
        let offers = option(words, "offers").unwrap_or("range");
        let join = Join {
            member_id: if words.contains(&"anew") { String::new() } else { self.id(words) },
            fresh_member_id: format!("{}{}", words[0], self.given),
            instance_id,
            client_id: words[0].to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: option(words, "type").unwrap_or("consumer").to_owned(),
            protocols: offers.split(',').map(|name| (name.to_owned(), Bytes::from(format!("{}:{name}", words[0])))).collect(),
            requires_known_id: words.contains(&"v4"),
            may_skip_assignment: words.contains(&"v9"),
        };
        self.group.join(ticket, join, self.now, effects);
    }

    fn sync(&mut self, words: &[&str], instance_id: Option<String>, generation: i32, effects: &mut Vec<Effect>) {
        self.given += 1;
        let ticket = self.given as Ticket;
        self.tickets.insert(ticket, words[0].to_owned());
        let assignments = option(words, "assign").into_iter().flat_map(|pairs| pairs.split(',')).filter_map(|pair| pair.split_once('='));
        let sync = Sync {
            member_id: self.id(words),
            instance_id,
            generation,
            protocol_type: Some("consumer".to_owned()),
            protocol: option(words, "protocol").map(str::to_owned),
            assignments: assignments.map(|(id, parts)| (id.to_owned(), Bytes::from(parts.to_owned()))).collect(),
        };
        self.group.sync(ticket, sync, self.now, effects);
    }

    /// Lets time pass, with every alarm at its time.
    fn wait(&mut self, ms: i64) {
        let until = self.now.monotonic_ms + ms;
        while let Some(deadline) = self.group.deadline_ms().filter(|deadline| *deadline <= until) {
            self.pass_to(deadline.max(self.now.monotonic_ms));
            let mut effects = Vec::new();
            self.group.tick(self.now, &mut effects);
            self.perform(effects);
        }
        self.pass_to(until);
    }

    fn pass_to(&mut self, at_ms: i64) {
        self.now.wall_ms += at_ms - self.now.monotonic_ms;
        self.now.monotonic_ms = at_ms;
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Join { ticket, answer } => self.joined(ticket, answer),
                Effect::Sync { ticket, answer } => {
                    let name = self.tickets.remove(&ticket).expect("a ticket is answered once");
                    self.say(match answer {
                        Ok(synced) => format!("{name} gets {:?}", String::from_utf8_lossy(&synced.assignment)),
                        Err(error) => format!("{name} gets no assignment: {error:?}"),
                    });
                }
                Effect::Store { group, then } => {
                    let members = group.members.iter().map(|member| member.id.as_str()).collect::<Vec<_>>().join(" ");
                    self.say(format!("log: gen {} [{members}]", group.generation));
                    if self.holds {
                        self.held.push(then);
                    } else {
                        let mut effects = Vec::new();
                        self.group.stored(then, self.now, &mut effects);
                        self.perform(effects);
                    }
                }
            }
        }
    }

    fn joined(&mut self, ticket: Ticket, answer: JoinAnswer) {
        let name = self.tickets.remove(&ticket).expect("a ticket is answered once");
        let line = match answer {
            Ok(joined) => {
                self.ids.insert(name.clone(), joined.member_id.clone());
                let protocol = joined.protocol.unwrap_or_default();
                let members = joined.members.iter().map(|(id, _, metadata)| format!("{id}={}", String::from_utf8_lossy(metadata)));
                let members = members.collect::<Vec<_>>().join(" ");
                let role = match (joined.leader == joined.member_id, joined.skip_assignment) {
                    (true, false) => format!("leads [{members}]"),
                    (true, true) => format!("leads without assigning [{members}]"),
                    (false, _) => format!("follows {}", joined.leader),
                };
                format!("{} in gen {} {protocol} {role}", joined.member_id, joined.generation)
            }
            Err(refused) if refused.error == ResponseError::MemberIdRequired => {
                self.ids.insert(name.clone(), refused.member_id.clone());
                format!("{name} shall be {}", refused.member_id)
            }
            Err(refused) => format!("{name} may not join: {:?}", refused.error),
        };
        self.say(line);
    }
}
