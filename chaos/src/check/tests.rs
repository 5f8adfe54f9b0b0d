//! Each anomaly is planted once and must be found by its name; a faithful history must pass.

use super::*;

const REGIONS: [&str; 3] = ["us", "eu", "asia"];

fn send(sequence: u64) -> Event {
    let value = format!("p-{sequence}");
    Event::Send { producer: "p".into(), sequence, topic: "flights".into(), partition: 0, value }
}

fn acked(sequence: u64, offset: i64) -> Event {
    Event::Acked { producer: "p".into(), sequence, topic: "flights".into(), partition: 0, offset }
}

fn read(region: &str, offset: i64, value: &str) -> Event {
    let (reader, region) = (format!("reader-{region}"), region.to_string());
    Event::Read { reader, region, pass: 1, topic: "flights".into(), partition: 0, offset, value: value.into() }
}

fn to_end(region: &str, end: i64) -> Event {
    Event::ReadToEnd { region: region.into(), topic: "flights".into(), partition: 0, end }
}

/// Ten records, acknowledged in order and read whole in three regions.
fn faithful() -> Vec<Event> {
    let mut events: Vec<Event> = (0..10).flat_map(|n| [send(n), acked(n, n as i64)]).collect();
    for region in REGIONS {
        events.extend((0..10).map(|n| read(region, n, &format!("p-{n}"))));
        events.push(to_end(region, 10));
    }
    events
}

fn names(events: &[Event]) -> Vec<Anomaly> {
    tally(&judge(events, 1).findings).into_keys().collect()
}

#[test]
fn a_faithful_history_passes() {
    let verdict = judge(&faithful(), 10);
    assert!(verdict.passes(), "{verdict:?}");
    assert_eq!((verdict.acked, verdict.reads, verdict.final_readings), (10, 30, 3));
}

#[test]
fn an_acknowledged_record_missing_in_one_region_is_lost_there() {
    let mut events = faithful();
    events.retain(|event| !matches!(event, Event::Read { region, offset: 9, .. } if region == "asia"));
    assert_eq!(names(&events), [Anomaly::LostWrite, Anomaly::Gap]);
    let verdict = judge(&events, 1);
    assert!(verdict.findings.iter().all(|finding| finding.detail.contains("asia")), "{verdict:?}");
}

#[test]
fn a_mirror_at_other_offsets_is_inconsistent() {
    let mut events = faithful();
    for event in &mut events {
        if let Event::Read { region, offset, .. } = event
            && region == "eu"
        {
            *offset += 1;
        }
    }
    let found = names(&events);
    assert!(found.contains(&Anomaly::InconsistentOffsets) && found.contains(&Anomaly::Duplicate), "{found:?}");
}

#[test]
fn an_acknowledgement_that_names_the_wrong_offset_is_inconsistent() {
    let mut events = faithful();
    events.extend([send(10), acked(10, 3)]);
    assert!(names(&events).contains(&Anomaly::InconsistentOffsets));
}

#[test]
fn one_value_at_two_offsets_is_a_duplicate() {
    let mut events = faithful();
    events.push(Event::Read {
        reader: "late".into(),
        region: "us".into(),
        pass: 2,
        topic: "flights".into(),
        partition: 0,
        offset: 10,
        value: "p-4".into(),
    });
    assert_eq!(names(&events), [Anomaly::Duplicate]);
}

#[test]
fn a_refused_record_that_is_read_and_one_never_sent_are_told_apart() {
    let mut events = faithful();
    events.extend([send(10), Event::Failed { producer: "p".into(), sequence: 10 }]);
    events.extend([read("us", 10, "p-10"), read("us", 11, "ghost")]);
    assert_eq!(names(&events), [Anomaly::G1a, Anomaly::Phantom]);
}

#[test]
fn an_indeterminate_record_may_be_read_or_not() {
    let mut events = faithful();
    events.extend([send(10), Event::Unknown { producer: "p".into(), sequence: 10 }]);
    assert!(judge(&events, 1).passes());
    for (place, event) in events.iter().position(|event| matches!(event, Event::ReadToEnd { .. })).into_iter().zip([read("us", 10, "p-10")])
    {
        events.insert(place, event);
    }
    assert!(judge(&events, 1).passes());
}

#[test]
fn a_reader_that_goes_back_within_a_pass_is_noticed() {
    let mut events = faithful();
    events.push(read("us", 5, "p-5"));
    assert_eq!(names(&events), [Anomaly::NonmonotonicPoll]);
}

#[test]
fn a_producers_values_out_of_order_are_noticed() {
    let events = [send(0), send(1), acked(0, 7), acked(1, 6), read("us", 6, "p-1"), read("us", 7, "p-0"), to_end("us", 8)];
    assert_eq!(names(&events), [Anomaly::NonmonotonicSend]);
}

#[test]
fn a_run_that_proves_nothing_does_not_pass() {
    let few = judge(&faithful(), 11);
    assert!(few.findings.is_empty() && !few.passes());
    let never_read_to_the_end: Vec<Event> = faithful().into_iter().filter(|event| !matches!(event, Event::ReadToEnd { .. })).collect();
    assert!(!judge(&never_read_to_the_end, 1).passes());
}
