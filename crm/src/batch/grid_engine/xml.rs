//! As much XML as Grid Engine writes: records of elements that hold text.
//!
//! Its lists are flat, so a record is what stands between `<job_list ...>` and `</job_list>`, by the
//! names of the elements in it. Attributes say nothing that the elements do not say.

use std::borrow::Cow;

/// The elements of one record, in their order; names may be repeated.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Record<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Record<'a> {
    /// The text of the first element of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, text)| &**text)
    }
}

/// All records of a name. `None` unless the document is there to its last tag: what was cut off
/// must not look as if it were not there.
pub fn records<'a>(document: &'a str, root: &str, name: &str) -> Option<Vec<Record<'a>>> {
    let end = document.trim_end().strip_suffix('>')?.strip_suffix(root)?;
    let mut rest = end.strip_suffix("</")?;
    let mut records = Vec::new();
    let mut record: Option<Record<'a>> = None;
    // The element that was opened last, until anything follows it.
    let mut open: Option<&'a str> = None;
    while let Some((text, tail)) = rest.split_once('<') {
        let (tag, after) = tail.split_once('>')?;
        match tag.strip_prefix('/') {
            Some(closed) if closed == name => records.extend(record.take()),
            Some(closed) if open == Some(closed) => {
                if let Some(record) = &mut record {
                    record.0.push((closed, unescape(text)));
                }
            }
            Some(_) => {}
            None => {
                let opened = tag.split_ascii_whitespace().next().unwrap_or_default();
                if opened == name {
                    record = Some(Record::default());
                }
                open = Some(opened);
                rest = after;
                continue;
            }
        }
        open = None;
        rest = after;
    }
    Some(records)
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return text.into();
    }
    // The ampersand last, else an escaped escape would be undone twice.
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORDED: &str = include_str!("records/qstat.xml");

    #[test]
    fn a_document_that_is_cut_off_anywhere_is_none() {
        assert!(records(RECORDED, "job_info", "job_list").is_some_and(|jobs| jobs.len() > 4));
        let whole = RECORDED.trim_end().len();
        for length in (0..whole).filter(|length| RECORDED.is_char_boundary(*length)) {
            let cut = &RECORDED[..length];
            // Inside it stands an element of the same name as the root.
            let inner = cut.trim_end().ends_with("</job_info>");
            assert!(inner || records(cut, "job_info", "job_list").is_none(), "cut at {length}");
        }
    }

    #[test]
    fn what_was_escaped_comes_back() {
        let document = "<r><j><name>a &amp;lt; b &lt;&quot;</name><none></none></j><j/></r>";
        let read = records(document, "r", "j").unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].get("name"), Some("a &lt; b <\""));
        assert_eq!((read[0].get("none"), read[0].get("other")), (Some(""), None));
    }

    proptest! {
        #[test]
        fn no_text_upsets_the_reader(text in "[<>/?a-c &;\"= \n]{0,80}") {
            for document in [text.clone(), format!("<a><b>{text}</b></a>")] {
                let _ = records(&document, "a", "b");
            }
        }

        #[test]
        fn every_record_is_found_with_its_text(texts in proptest::collection::vec("[ -~]{0,12}", 0..8)) {
            let escape = |text: &String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let all: String = texts.iter().map(|t| format!("<j x=\"1\">\n <n>{}</n>\n</j>", escape(t))).collect();
            let document = format!("<?xml version='1.0'?>\n<r a='b'>{all}</r>\n");
            let read = records(&document, "r", "j").unwrap();
            let read: Vec<&str> = read.iter().filter_map(|record| record.get("n")).collect();
            prop_assert_eq!(read, texts);
        }
    }
}
