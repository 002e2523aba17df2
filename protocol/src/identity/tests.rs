//! Identities on disk: written once, private, and refused when they are not.

use tempfile::tempdir;

use super::*;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_saved_identity_is_the_same_when_it_is_loaded() {
    let directory = tempdir().unwrap();
    let identity = Identity::generate("crm a").unwrap();
    identity.save(directory.path()).unwrap();
    let loaded = Identity::load(directory.path()).unwrap();
    assert_eq!(loaded.pin(), identity.pin());
    assert_eq!(loaded.key().secret_der(), identity.key().secret_der());
    let mode = fs::metadata(directory.path().join("key.der")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn two_identities_never_have_one_pin() {
    assert_ne!(Identity::generate("a").unwrap().pin(), Identity::generate("a").unwrap().pin());
}

#[test]
fn a_key_that_others_can_read_is_refused_by_name() {
    let directory = tempdir().unwrap();
    Identity::generate("crm a").unwrap().save(directory.path()).unwrap();
    let key = directory.path().join("key.der");
    for mode in [0o640, 0o604, 0o620, 0o601, 0o644, 0o660] {
        set_mode(&key, mode);
        let error = Identity::load(directory.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Exposed { .. }), "mode {mode:o}: {error}");
        assert!(error.to_string().contains("key.der") && error.to_string().contains("0600"));
    }
    for mode in [0o600, 0o400] {
        set_mode(&key, mode);
        Identity::load(directory.path()).unwrap();
    }
}

#[test]
fn an_identity_is_never_written_over() {
    let directory = tempdir().unwrap();
    let first = Identity::generate("grc").unwrap();
    first.save(directory.path()).unwrap();
    let error = Identity::generate("grc").unwrap().save(directory.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Write { .. }), "{error}");
    assert_eq!(Identity::load(directory.path()).unwrap().pin(), first.pin());
}

#[test]
fn missing_and_empty_files_are_named() {
    let directory = tempdir().unwrap();
    let error = Identity::load(directory.path()).unwrap_err();
    assert!(error.to_string().contains("certificate.der"), "{error}");
    Identity::generate("grc").unwrap().save(directory.path()).unwrap();
    fs::write(directory.path().join("key.der"), b"").unwrap();
    let error = Identity::load(directory.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
}

/// Two halves of different identities, as a careless restore would leave them.
#[test]
fn a_certificate_beside_another_key_is_refused_before_it_is_used() {
    let (one, other) = (tempdir().unwrap(), tempdir().unwrap());
    Identity::generate("grc").unwrap().save(one.path()).unwrap();
    Identity::generate("grc").unwrap().save(other.path()).unwrap();
    fs::copy(one.path().join("certificate.der"), other.path().join("certificate.der")).unwrap();
    let mixed = Identity::load(other.path()).unwrap();
    assert!(crate::tls::acceptor(&mixed).is_err());
    assert!(crate::tls::connector(&mixed, mixed.pin()).is_err());
}

#[test]
fn no_key_is_ever_printed() {
    let identity = Identity::generate("grc").unwrap();
    assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.pin()));
}

#[test]
fn a_pin_is_read_as_it_is_shown_and_nothing_else_is() {
    let pin = Identity::generate("grc").unwrap().pin();
    assert_eq!(pin.to_string().parse::<Pin>().unwrap(), pin);
    let text = pin.to_string();
    for bad in ["", &text[1..], &format!("{text}0"), &format!("+{}", &text[1..]), &"é".repeat(32)] {
        assert!(bad.parse::<Pin>().is_err(), "{bad:?}");
    }
    assert_eq!(text.to_uppercase().parse::<Pin>().unwrap(), pin);
}
