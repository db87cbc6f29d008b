// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use proptest::prelude::*;

use super::*;
use crate::Meaning;

const WHOM: Whom<'_> = Whom { id: "ID", name: "name", asked: "x1" };

fn check_denied(status: Status, request: Request, meaning: Meaning, text: &str) {
    let error = check(status, request, WHOM).expect_err("denied");
    assert_eq!((error.meaning(), error.to_string().as_str()), (meaning, text), "{request:?} while {status}");
}

#[test]
fn refusals_are_in_the_words_clients_know() {
    use Meaning::{Conflict, Internal};
    check_denied(
        Status::Exited,
        Request::Kill,
        Conflict,
        "cannot kill container: x1: container ID is not running",
    );
    check_denied(Status::Created, Request::Pause, Conflict, "container ID is not running");
    check_denied(Status::Paused, Request::Pause, Conflict, "Container ID is already paused");
    check_denied(Status::Running, Request::Unpause, Internal, "Container ID is not paused");
    check_denied(
        Status::Paused,
        Request::Exec,
        Conflict,
        "Container x1 is paused, unpause the container before exec",
    );
    check_denied(Status::Exited, Request::Exec, Conflict, "container ID is not running");
    check_denied(Status::Exited, Request::Processes, Conflict, "container ID is not running");
    check_denied(
        Status::Running,
        Request::Remove { force: false },
        Conflict,
        "cannot remove container \"name\": container is running: stop the container before removing or force remove",
    );
    check_denied(
        Status::Removing,
        Request::Remove { force: true },
        Conflict,
        "removal of container x1 is already in progress",
    );
}

#[test]
fn what_is_so_already_is_not_done_again() {
    for (status, request) in [
        (Status::Running, Request::Start),
        (Status::Exited, Request::Stop),
        (Status::Created, Request::Stop),
        (Status::Restarting, Request::Start),
    ] {
        assert_eq!(admit(status, request), Verdict::AlreadySo, "{request:?} while {status}");
    }
}

fn any_status() -> impl Strategy<Value = Status> {
    prop::sample::select(Status::ALL.to_vec())
}

fn any_request() -> impl Strategy<Value = Request> {
    prop::sample::select(Request::ALL.to_vec())
}

proptest! {
    #[test]
    fn whatever_needs_processes_is_admitted_only_where_there_may_be_some(status in any_status(), request in any_request()) {
        let needs = matches!(
            request,
            Request::Kill | Request::Pause | Request::Unpause | Request::Exec | Request::Processes
        );
        if needs && admit(status, request) == Verdict::Accept {
            prop_assert!(status.has_processes() || status == Status::Restarting);
        }
    }

    #[test]
    fn force_removes_everything_that_is_not_being_removed(status in any_status()) {
        let verdict = admit(status, Request::Remove { force: true });
        prop_assert_eq!(verdict == Verdict::Accept, status != Status::Removing);
    }

    #[test]
    fn nothing_is_admitted_while_removing(request in any_request()) {
        prop_assert_eq!(admit(Status::Removing, request), Verdict::Deny(Denial::Removing));
    }

    #[test]
    fn every_denial_has_words(status in any_status(), request in any_request()) {
        if let Err(error) = check(status, request, WHOM) {
            prop_assert!(matches!(error.meaning(), Meaning::Conflict | Meaning::Internal));
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn names_follow_the_grammar(name in "\\PC{0,12}") {
        let good = name.len() >= 2
            && name.is_ascii()
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        prop_assert_eq!(check_name(&name).is_ok(), good);
    }
}
