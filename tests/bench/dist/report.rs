//! Tables: what was measured in each round, as median and spread, and beside what it is compared with.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Row, presets};
use std::io::IsTerminal;

/// One number of many things, of each column in each round.
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    /// The column that the others are compared with.
    base: Option<usize>,
    rows: Vec<(String, Vec<Values>)>,
}

#[derive(Default, Clone)]
struct Values {
    of_rounds: Vec<(usize, f64)>,
    /// Why there are none.
    says: Option<&'static str>,
}

impl Table {
    pub(crate) fn new(title: &str, columns: &[&'static str], base: Option<&str>) -> Self {
        Self {
            title: title.into(),
            columns: columns.to_vec(),
            base: columns.iter().position(|column| Some(*column) == base),
            rows: Vec::new(),
        }
    }

    pub(crate) fn put(&mut self, row: &str, column: &str, round: usize, value: f64) {
        self.values(row, column).of_rounds.push((round, value));
    }

    /// A word in the place of a number.
    pub(crate) fn say(&mut self, row: &str, column: &str, word: &'static str) {
        self.values(row, column).says = Some(word);
    }

    fn values(&mut self, row: &str, column: &str) -> &mut Values {
        let column = self.columns.iter().position(|name| *name == column);
        let column = column.expect("a column of this table");
        let at = match self.rows.iter().position(|(name, _)| name == row) {
            Some(at) => at,
            None => {
                let empty = vec![Values::default(); self.columns.len()];
                self.rows.push((row.into(), empty));
                self.rows.len() - 1
            }
        };
        &mut self.rows[at].1[column]
    }

    /// Prints it, unless there is nothing in it.
    pub(crate) fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        let spread = self.rows.iter().flat_map(|(_, row)| row);
        let spread = spread.map(|v| v.of_rounds.len()).max().unwrap_or(0) > 1;
        let mut heads = vec![self.title.clone()];
        for (at, column) in self.columns.iter().enumerate() {
            heads.push((*column).into());
            if spread {
                heads.push("min-max".into());
            }
            if self.compared(at) {
                heads.push("ratio".into());
            }
        }
        let mut rows = Vec::new();
        for (name, row) in &self.rows {
            let mut cells = vec![name.clone()];
            for (at, values) in row.iter().enumerate() {
                cells.push(values.median());
                if spread {
                    cells.push(values.spread());
                }
                if self.compared(at) {
                    cells.push(self.base.map_or(String::new(), |b| values.ratio(&row[b])));
                }
            }
            rows.push(cells);
        }
        draw(&heads, &rows);
    }

    fn compared(&self, column: usize) -> bool {
        self.base.is_some_and(|base| base != column)
    }
}

impl Values {
    fn median(&self) -> String {
        let values = self.of_rounds.iter().map(|(_, value)| *value).collect();
        match median(values) {
            Some(value) => number(value),
            None => self.says.unwrap_or("").into(),
        }
    }

    fn spread(&self) -> String {
        let values = self.of_rounds.iter().map(|(_, value)| *value);
        let (low, high) = (values.clone().reduce(f64::min), values.reduce(f64::max));
        match (low, high) {
            (Some(low), Some(high)) => format!("{}-{}", number(low), number(high)),
            _ => String::new(),
        }
    }

    /// The median of the rounds' ratios: both sides of one had the same machine.
    fn ratio(&self, base: &Self) -> String {
        let ratios = self.of_rounds.iter().filter_map(|(round, value)| {
            let of_base = base.of_rounds.iter().find(|(other, _)| other == round)?.1;
            (of_base > 0.0).then_some(value / of_base)
        });
        median(ratios.collect()).map_or(String::new(), |ratio| format!("{ratio:.2}"))
    }
}

/// Rows under heads: lines around them on a terminal, bare columns in a pipe.
pub(crate) fn draw(heads: &[String], rows: &[Vec<String>]) {
    let mut table = comfy_table::Table::new();
    let terminal = std::io::stdout().is_terminal();
    table
        .load_preset(if terminal {
            presets::UTF8_FULL_CONDENSED
        } else {
            presets::NOTHING
        })
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(line(heads));
    for row in rows {
        table.add_row(line(row));
    }
    println!("\n{}", table.trim_fmt());
}

/// Numbers are read from their ends, names from their beginnings.
fn line(cells: &[String]) -> Row {
    let cells = cells.iter().enumerate().map(|(at, text)| {
        let side = if at == 0 {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        };
        Cell::new(text).set_alignment(side)
    });
    Row::from(cells)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        even if even.is_multiple_of(2) => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

/// Three digits or a little more.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.2}M", value / 1e6),
        size if size >= 1e4 => format!("{:.1}k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
