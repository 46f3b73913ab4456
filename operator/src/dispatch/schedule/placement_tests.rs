use super::*;
use crate::dispatch::dice::Dice;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|ordinal| format!("main-{ordinal}")).collect()
}

/// Ready members with so many builds each.
fn members<'a>(names: &'a [String], builds: &[usize], slots: usize) -> Vec<Candidate<'a>> {
    let member = |(pod, builds): (&'a String, &usize)| Candidate {
        pod,
        hash: stable_hash(pod),
        ready: true,
        open: true,
        builds: *builds,
        slots,
    };
    names.iter().zip(builds).map(member).collect()
}

fn key(number: usize) -> u64 {
    stable_hash(&format!("https://git.example.com/team/project-{number}.git"))
}

fn home(key: u64, names: &[String]) -> usize {
    choose(key, &members(names, &vec![0; names.len()], 1)).unwrap()
}

#[test]
fn the_hash_does_not_change_with_the_program() {
    assert_eq!(stable_hash(""), 0xe3b0_c442_98fc_1c14);
    assert_eq!(stable_hash("main-0"), 0x9bd8_269c_e7ac_cbc0);
    let homes: Vec<usize> = (0..8).map(|number| home(key(number), &names(4))).collect();
    assert_eq!(homes, [0, 0, 2, 2, 3, 3, 0, 2], "a release in which this changes makes every cache cold once");
}

#[test]
fn every_member_is_home_to_its_share_of_the_keys() {
    for count in [2, 3, 5, 10] {
        let names = names(count);
        let members = members(&names, &vec![0; count], 1);
        let mut keys = vec![0_usize; count];
        for number in 0..2000 * count {
            keys[choose(key(number), &members).unwrap()] += 1;
        }
        assert!(keys.iter().all(|keys| (1800..=2200).contains(keys)), "{count} members: {keys:?}");
    }
}

/// Of 10,000 keys those that move when one member more comes; all of them go to it.
pub fn moved(count: usize) -> usize {
    let names = names(count + 1);
    let members = members(&names, &vec![0; count + 1], 1);
    let moves = (0..10_000).map(key).filter_map(|key| {
        let (before, after) = (choose(key, &members[..count]).unwrap(), choose(key, &members).unwrap());
        (before != after).then_some(after)
    });
    let moves: Vec<usize> = moves.collect();
    assert!(moves.iter().all(|to| *to == count), "a key moved between members that stayed");
    moves.len()
}

#[test]
fn a_member_that_comes_moves_only_the_keys_that_it_gets() {
    for count in [1, 2, 3, 4, 6, 8, 12, 16, 31] {
        let moved = moved(count);
        // moved / 10,000 ≤ 1.2 / (N + 1)
        assert!(moved * (count + 1) <= 12_000, "{count} → {}: {moved} moved", count + 1);
    }
}

#[test]
fn ready_members_come_before_those_that_start() {
    let names = names(3);
    let mut members = members(&names, &[0, 0, 0], 2);
    for number in 0..100 {
        let home = home(key(number), &names);
        for (index, member) in members.iter_mut().enumerate() {
            member.ready = index != home;
        }
        let second = choose(key(number), &members).unwrap();
        assert_ne!(second, home);
        for (index, member) in members.iter_mut().enumerate() {
            member.open = index == home;
        }
        assert_eq!(choose(key(number), &members), Some(home), "rather one that starts than none");
        for member in &mut members {
            member.open = true;
        }
    }
}

#[test]
fn without_a_slot_there_is_no_place() {
    let names = names(2);
    assert_eq!(choose(1, &members(&names, &[2, 2], 2)), None);
    assert_eq!(choose(1, &members(&names, &[2, 1], 2)), Some(1));
    assert_eq!(choose(1, &[]), None);
    let mut closed = members(&names, &[0, 2], 2);
    closed[0].open = false;
    assert_eq!(choose(1, &closed), None);
}

#[test]
fn no_member_gets_above_the_bound_while_another_has_a_slot_below_it() {
    for seed in 0..500 {
        let mut dice = Dice::new(seed);
        let count = 1 + dice.below(12);
        let slots = 1 + dice.below(64);
        let names = names(count);
        let mut builds: Vec<usize> = (0..count).map(|_| dice.below(slots + 1)).collect();
        // One hot key, and others.
        for number in 0..50 {
            let Some(chosen) = choose(key(number % 3), &members(&names, &builds, slots)) else { break };
            builds[chosen] += 1;
            let total = builds.iter().sum::<usize>();
            let limit = limit(total, count, slots);
            let other = (0..count).any(|other| other != chosen && builds[other] < limit);
            assert!(builds[chosen] <= limit || !other, "seed {seed}: {chosen} of {builds:?}, limit {limit}");
            assert!(builds[chosen] <= slots);
        }
    }
}

#[test]
fn one_hot_project_is_spread_when_its_home_has_more_than_its_share() {
    let names = names(4);
    let mut builds = [0; 4];
    for _ in 0..80 {
        builds[choose(key(7), &members(&names, &builds, 64)).unwrap()] += 1;
    }
    assert_eq!(builds.iter().max(), Some(&25), "1.25 × 80 / 4: {builds:?}");
}

/// How builds find their members, for comparison.
type Choose = fn(u64, &[Candidate<'_>]) -> Option<usize>;

/// Builds of random projects come and go; how often one went to its project's home.
pub fn locality(choose_member: Choose, members_count: usize, slots: usize, load: usize, seed: u64) -> f64 {
    let names = names(members_count);
    let mut members = members(&names, &vec![0; members_count], slots);
    let projects: Vec<u64> = (0..500).map(key).collect();
    let homes: Vec<usize> = projects.iter().map(|project| choose(*project, &members).unwrap()).collect();
    let mut dice = Dice::new(seed);
    let mut running: Vec<usize> = Vec::new();
    let (mut hits, mut all) = (0_u32, 0_u32);
    for _ in 0..20_000 {
        // Around `load` builds run: the fuller, the sooner the next that happens is an end.
        if dice.below(2 * load) < running.len() {
            let member = running.swap_remove(dice.below(running.len()));
            members[member].builds -= 1;
        } else {
            let project = dice.below(projects.len());
            let chosen = choose_member(projects[project], &members).unwrap();
            hits += u32::from(chosen == homes[project]);
            all += 1;
            members[chosen].builds += 1;
            running.push(chosen);
        }
    }
    f64::from(hits) / f64::from(all)
}

#[test]
fn the_same_project_goes_to_the_same_member() {
    // A third of the slots are taken on the average.
    for (members, slots) in [(1, 2), (3, 8), (5, 8), (10, 8)] {
        let locality = locality(choose, members, slots, (members * slots / 3).max(1), 1);
        println!("{members} members of {slots} slots, a third taken: {:.2} % at home", locality * 100.0);
        assert!(locality >= 0.99, "{members} members of {slots} slots: {locality}");
    }
}
