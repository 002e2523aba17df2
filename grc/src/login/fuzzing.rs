//! What the fuzz target feeds, and what must hold whatever it feeds.

use protocol::names::UserName;

use super::key::Key;
use super::users::Users;

/// One byte that chooses, then a users file, a public key or a signature.
///
/// # Panics
/// When something that must hold does not.
pub fn login(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    match which % 3 {
        0 => users_file(bytes),
        1 => key(bytes),
        _ => signature(bytes),
    }
}

/// A file is read to its end, whatever stands in it, and a cut file lets nobody in whom the whole
/// one, without mistakes, does not.
fn users_file(bytes: &[u8]) {
    let (users, mistake) = Users::parse(bytes);
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(users.len() <= lines);
    if let Some(mistake) = &mistake {
        assert!((1..=lines).contains(&mistake.line));
        let said = mistake.to_string();
        assert!(!said.contains(char::is_control) && said.len() < 4096, "{said:?}");
    } else {
        let (again, _) = Users::parse(bytes);
        assert_eq!(users.without_what_left(&again), users);
    }
    assert!(users.without_what_left(&Users::default()).is_empty());
}

/// A key that is taken has one form only, and comes back from its words.
fn key(bytes: &[u8]) {
    let Ok(key) = Key::from_bytes(bytes) else { return };
    assert_eq!(key.as_bytes(), bytes);
    let words = key.words();
    let (kind, base64) = words.split_once(' ').expect("two words");
    assert_eq!(Key::from_words(kind, base64).as_ref(), Ok(&key));
    let line = format!("ada {words} comment\n");
    let (users, mistake) = Users::parse(line.as_bytes());
    let ada: UserName = "ada".parse().expect("a name");
    assert_eq!((mistake, users.key(&ada, bytes)), (None, Some(&key)));
}

/// No bytes are a signature of a key whose private half nobody has used.
fn signature(bytes: &[u8]) {
    for words in KEYS {
        let (kind, base64) = words.split_once(' ').expect("two words");
        let key = Key::from_words(kind, base64).expect("a key");
        assert!(!key.signed(b"never signed", bytes), "{kind}");
    }
}

/// One of each type, made for this and thrown away.
pub(super) const KEYS: [&str; 4] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHSTxu1rbOoWsbQcQ7yGk0wmt3P6oMMOCPG3yrU7Pn8h",
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBF3PD6l1p773eBbZ6qUq4ynK+1dCVA3wrOJ3My7lFIyEEBRrOATn1EiyWWHsHkzVgNcUv2KPBXPTGYo04BV3nV4=",
    "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBM1lzArXYC0+RxK5+1GoZrm8sD9Wvzs9QYk1EiyVghYfntbqYwDR6LbHkAP8IdFey9sxVouwCjm4iuL6ezkTwM4LehCb4NhLS6fp3gVWhfwL71DVESns09T3KH2kfkV7vw==",
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC847uIunY4yMrD8TdWMfsV/Y17A8NibJ5xZBtDeb7lrh8APOp+7nwT/YrLFNhSlhy9ZSeVdJhVAhVKtpuiHm9JqB0DuZTPLpdELcAHwPUNulLJOw/Upe9225Zq1SlwvYDAjj4b7sNZXBePumS9Hd+KM42ZHReVb2bg/dqyD6fUlfHHJluhF2z6RPspUjz5pny9IVlgfl0YSnB11Y77MPZc4l1uTg6RwP82LQ+IUIaLg8g6UQlFlvwku6KhGi6+zEjBuW/uopTe/pEc7DD8tuMx92UW8eWyO/VroWk53sYJNMlhOixJ+CVhTimgyziLSeMsGPAU5vPaxk9dhKWj8wFJ",
];
