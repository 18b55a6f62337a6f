use proptest::prelude::*;

use super::*;

/// A request: its number, its rows, and its kind; only one kind joins another of the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    number: u32,
    rows: usize,
    kind: u8,
}

impl Queued for Asked {
    fn rows(&self) -> usize {
        self.rows
    }

    fn joins(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

fn asked(number: u32) -> Asked {
    Asked {
        number,
        rows: 1,
        kind: 0,
    }
}

const ALONE: LaneRule = LaneRule {
    waiting: 100,
    batch: None,
};

fn batched(rows: usize, window_ms: u64) -> LaneRule {
    let window = Duration::from_millis(window_ms);
    LaneRule {
        batch: Some(BatchRule { rows, window }),
        ..ALONE
    }
}

fn numbers(start: &Start<u32, Asked>) -> Vec<u32> {
    start.members.iter().map(|asked| asked.number).collect()
}

fn lane(dispatch: &mut Dispatch<u32, Asked>, rule: LaneRule, sessions: u32) -> LaneId {
    let lane = dispatch.open(rule);
    dispatch.add_sessions(lane, (0..sessions).collect());
    lane
}

fn arrive(
    dispatch: &mut Dispatch<u32, Asked>,
    lane: LaneId,
    priority: u32,
    asked: Asked,
) -> Ticket {
    let arrived = dispatch.arrive(lane, Priority::new(priority), asked, Instant::now());
    arrived.ok().expect("the queue has room")
}

fn next(dispatch: &mut Dispatch<u32, Asked>) -> Vec<u32> {
    dispatch
        .next(Instant::now())
        .as_ref()
        .map_or(Vec::new(), numbers)
}

#[test]
fn the_urgent_run_first_and_equals_in_the_order_they_came() {
    let mut dispatch = Dispatch::new(1);
    let lane = lane(&mut dispatch, ALONE, 1);
    for (number, priority) in [(1, 0), (2, 200), (3, 1), (4, 0), (5, 1)] {
        arrive(&mut dispatch, lane, priority, asked(number));
    }
    let mut order = Vec::new();
    while let Some(start) = dispatch.next(Instant::now()) {
        order.extend(numbers(&start));
        assert!(dispatch.next(Instant::now()).is_none(), "there is one core");
        dispatch.finish(lane, Some(start.session));
    }
    assert_eq!(order, [3, 5, 1, 4, 2]);
}

#[test]
fn lanes_take_turns_for_the_cores() {
    let mut dispatch = Dispatch::new(1);
    let first = lane(&mut dispatch, ALONE, 2);
    let second = lane(&mut dispatch, ALONE, 2);
    for number in 0..3 {
        arrive(&mut dispatch, first, 0, asked(number));
    }
    arrive(&mut dispatch, second, 0, asked(10));
    let mut order = Vec::new();
    while let Some(start) = dispatch.next(Instant::now()) {
        order.extend(numbers(&start));
        dispatch.finish(start.lane, Some(start.session));
    }
    assert_eq!(order, [0, 10, 1, 2]);
}

#[test]
fn a_batch_holds_what_joins_and_fits_and_no_more() {
    let mut dispatch = Dispatch::new(1);
    let lane = lane(&mut dispatch, batched(4, 0), 1);
    let all = [(1, 1, 0), (2, 2, 0), (3, 1, 7), (4, 2, 0), (5, 1, 0)];
    for (number, rows, kind) in all {
        arrive(&mut dispatch, lane, 0, Asked { number, rows, kind });
    }
    assert_eq!(
        next(&mut dispatch),
        [1, 2, 5],
        "4 would be one row too many"
    );
    dispatch.finish(lane, Some(0));
    assert_eq!(next(&mut dispatch), [3]);
    dispatch.finish(lane, Some(0));
    assert_eq!(next(&mut dispatch), [4]);
}

#[test]
fn a_window_holds_requests_back_until_it_is_over_or_the_batch_is_full() {
    let mut dispatch = Dispatch::new(1);
    let lane = lane(&mut dispatch, batched(3, 10), 1);
    assert!(dispatch.seize(lane, 1).is_none(), "it may wait for more");
    let begin = Instant::now();
    let at = |ms| begin + Duration::from_millis(ms);
    let came = |dispatch: &mut Dispatch<u32, Asked>, number, ms| {
        dispatch
            .arrive(lane, Priority::default(), asked(number), at(ms))
            .is_ok()
    };
    assert!(came(&mut dispatch, 1, 0) && came(&mut dispatch, 2, 5));
    assert!(dispatch.next(at(9)).is_none());
    let start = dispatch
        .next(at(10))
        .expect("the first has waited long enough");
    assert_eq!(numbers(&start), [1, 2]);
    dispatch.finish(lane, Some(0));
    assert!((3..6).all(|number| came(&mut dispatch, number, 20)));
    let start = dispatch.next(at(20)).expect("the batch is full");
    assert_eq!(numbers(&start), [3, 4, 5]);
    dispatch.finish(lane, Some(0));
    assert!(dispatch.seize(lane, 3).is_some(), "a full batch by itself");
}

#[test]
fn a_full_queue_gives_the_request_back() {
    let mut dispatch = Dispatch::<u32, _>::new(1);
    let rule = LaneRule {
        waiting: 1,
        batch: None,
    };
    let lane = lane(&mut dispatch, rule, 1);
    let session = dispatch.seize(lane, 1);
    assert!(session.is_some() && dispatch.seize(lane, 1).is_none());
    let ticket = arrive(&mut dispatch, lane, 0, asked(1));
    let Err(Full(back)) = dispatch.arrive(lane, Priority::default(), asked(2), Instant::now())
    else {
        panic!("there was no room");
    };
    assert_eq!(back.number, 2);
    assert_eq!(dispatch.leave(ticket), Some(asked(1)));
    assert_eq!(dispatch.leave(ticket), None);
    arrive(&mut dispatch, lane, 0, asked(3));
    dispatch.finish(lane, session);
    assert_eq!(next(&mut dispatch), [3]);
}

#[test]
fn sessions_are_taken_only_from_an_idle_lane() {
    let mut dispatch = Dispatch::new(2);
    let lane = lane(&mut dispatch, ALONE, 2);
    let session = dispatch.seize(lane, 1);
    assert!(dispatch.take_sessions(lane).is_none(), "one is at work");
    dispatch.finish(lane, session);
    assert_eq!(dispatch.take_sessions(lane).map(|all| all.len()), Some(2));
    arrive(&mut dispatch, lane, 0, asked(1));
    assert_eq!(next(&mut dispatch), [0; 0], "without a session");
    dispatch.add_sessions(lane, vec![0]);
    assert_eq!(next(&mut dispatch), [1]);
}

#[derive(Debug, Clone)]
enum Act {
    Arrive {
        lane: usize,
        priority: u32,
        rows: usize,
        kind: u8,
    },
    Seize {
        lane: usize,
    },
    Leave {
        nth: usize,
    },
    Finish {
        nth: usize,
        lost: bool,
    },
    Evict {
        lane: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3_usize, 0..4_u32, 1..6_usize, 0..2_u8)
            .prop_map(|(lane, priority, rows, kind)| Act::Arrive { lane, priority, rows, kind }),
        1 => (0..3_usize).prop_map(|lane| Act::Seize { lane }),
        1 => (0..20_usize).prop_map(|nth| Act::Leave { nth }),
        3 => (0..4_usize, prop::bool::weighted(0.05)).prop_map(|(nth, lost)| Act::Finish { nth, lost }),
        1 => (0..3_usize).prop_map(|lane| Act::Evict { lane }),
    ]
}

proptest! {
    /// Whatever happens: cores and sessions are never overdrawn, nothing that can run waits, every request comes out
    /// exactly once, and batches keep their bounds.
    #[test]
    fn nothing_is_lost_doubled_or_left_waiting(acts in prop::collection::vec(act(), 1..200)) {
        const CORES: usize = 2;
        const SESSIONS: u32 = 2;
        let mut dispatch = Dispatch::<u32, Asked>::new(CORES);
        let rules = [ALONE, batched(5, 0), LaneRule { waiting: 3, batch: None }];
        let lanes = rules.map(|rule| lane(&mut dispatch, rule, SESSIONS));
        let mut sessions = [SESSIONS as usize; 3];
        let mut waiting: Vec<(u32, usize, Ticket)> = Vec::new();
        let mut running: Vec<(usize, u32)> = Vec::new();
        let mut next_number = 0;
        for act in acts {
            match act {
                Act::Arrive { lane, priority, rows, kind } => {
                    next_number += 1;
                    let asked = Asked { number: next_number, rows, kind };
                    match dispatch.arrive(lanes[lane], Priority::new(priority), asked, Instant::now()) {
                        Ok(ticket) => waiting.push((next_number, lane, ticket)),
                        Err(Full(back)) => {
                            prop_assert_eq!(back.number, next_number);
                            let queued = waiting.iter().filter(|(_, other, _)| *other == lane).count();
                            prop_assert!(queued >= rules[lane].waiting);
                        }
                    }
                }
                Act::Seize { lane } => {
                    if let Some(session) = dispatch.seize(lanes[lane], 1) {
                        running.push((lane, session));
                    }
                }
                Act::Leave { nth } => {
                    if nth < waiting.len() {
                        let (number, _, ticket) = waiting.remove(nth);
                        prop_assert_eq!(dispatch.leave(ticket).map(|asked| asked.number), Some(number));
                    }
                }
                Act::Finish { nth, lost } => {
                    if nth < running.len() {
                        let (lane, session) = running.remove(nth);
                        sessions[lane] -= usize::from(lost);
                        dispatch.finish(lanes[lane], (!lost).then_some(session));
                    }
                }
                Act::Evict { lane } => {
                    if let Some(taken) = dispatch.take_sessions(lanes[lane]) {
                        prop_assert_eq!(taken.len(), sessions[lane]);
                        dispatch.add_sessions(lanes[lane], taken);
                    }
                }
            }
            while let Some(start) = dispatch.next(Instant::now()) {
                let lane = lanes.iter().position(|lane| *lane == start.lane).expect("known");
                let rows: usize = start.members.iter().map(Queued::rows).sum();
                let most = rules[lane].batch.map_or(0, |batch| batch.rows);
                prop_assert!(start.members.len() == 1 || rows <= most);
                prop_assert!(start.members.iter().all(|asked| asked.kind == start.members[0].kind));
                for asked in &start.members {
                    let at = waiting.iter().position(|(number, ..)| *number == asked.number);
                    prop_assert!(at.is_some(), "{} ran twice or never came", asked.number);
                    waiting.remove(at.expect("checked"));
                }
                running.push((lane, start.session));
            }
            prop_assert!(running.len() <= CORES);
            for lane in 0..3 {
                let at_work = running.iter().filter(|(other, _)| *other == lane).count();
                let queued = waiting.iter().filter(|(_, other, _)| *other == lane).count();
                prop_assert!(at_work <= sessions[lane]);
                prop_assert_eq!(dispatch.waiting(lanes[lane]), queued);
                prop_assert_eq!(dispatch.running(lanes[lane]), at_work);
                let stuck = queued > 0 && running.len() < CORES && at_work < sessions[lane];
                prop_assert!(!stuck, "a session and a core are free, and {queued} wait");
            }
        }
    }
}
