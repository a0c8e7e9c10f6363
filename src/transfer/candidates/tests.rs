use super::*;

#[test]
fn a_tag_leads_on_in_an_outage_alone_and_a_digest_whatever_a_registry_says() {
    for (failure, by_tag, by_digest) in [
        (Failure::Unreachable, true, true),
        (Failure::Unresolved, true, true),
        (Failure::Silent, true, true),
        (Failure::Broken, true, true),
        (Failure::ServerError, true, true),
        (Failure::Busy, true, true),
        (Failure::Unauthorized, false, true),
        (Failure::Denied, false, true),
        (Failure::NotFound, false, true),
        (Failure::WrongBytes, false, true),
        (Failure::Untrusted, false, true),
        (Failure::Redirect, false, true),
        (Failure::Login, false, true),
        (Failure::TooLarge, false, true),
        (Failure::Refused, false, true),
        (Failure::Setup, false, false),
    ] {
        assert_eq!(
            (Subject::Tag.leads_on(failure), Subject::Digest.leads_on(failure)),
            (by_tag, by_digest),
            "{failure:?}"
        );
    }
}
