//! What no data know: the part that people write. It asks for what was seen and known, never for whose fault it was.

use super::super::document::{Block, Table};

/// Titles and places to write.
pub(super) fn blanks() -> Vec<Block> {
    let blank = |text: &str| Block::Blank(text.to_owned());
    let heading = |text: &str| Block::Heading(text.to_owned());
    let table = |head: &[&'static str], rows: usize| {
        let mut table = Table::new(head);
        table.is_blank = true;
        (0..rows).for_each(|_| table.row(false, vec![String::new(); head.len()]));
        Block::Table(table)
    };
    vec![
        Block::Text(
            "No report knows why people decided as they did. Write what they saw and what they knew at the time, not who should have \
             known better."
                .to_owned(),
        ),
        heading("Impact in the users' words"),
        blank("What could they not do, and for how long? Who told us?"),
        heading("Detection"),
        blank("Who noticed first, an alert or a person? How long after the begin above? What would have been sooner?"),
        heading("Root cause"),
        blank("The class above says where. Why did it come to that, and why now?"),
        heading("What went well"),
        blank("What kept it from being worse?"),
        heading("What went badly, and where we were lucky"),
        blank("What cost time? What might have gone wrong and did not?"),
        heading("What people did"),
        table(&["time (UTC)", "who", "did what, and what they saw"], 3),
        heading("Action items"),
        table(&["what", "prevents, detects or mitigates", "owner", "due", "ticket"], 4),
    ]
}
