//! Plain two-column tables.

/// Prints `rows` of a name and a value in two columns; long values are wrapped within theirs.
pub fn print(title: &str, rows: &[(&str, String)]) {
    const VALUE_WIDTH: usize = 88;
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    outln!("{title}");
    for (name, value) in rows {
        let mut line = String::new();
        let mut label = *name;
        for word in value.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > VALUE_WIDTH {
                outln!("  {label:<width$}  {line}");
                (label, line) = ("", String::new());
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        outln!("  {label:<width$}  {line}");
    }
}
