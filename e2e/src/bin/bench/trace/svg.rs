//! The same as a picture: time to the right, a row a task; what a row's colours mean is written above.

use std::fmt::Write as _;

use super::Step;
use super::line::{Line, Lines, Span};

/// Pixels of a millisecond, of a row, and left of the rows.
const SCALE: f64 = 50.0;
const ROW: usize = 15;
const LEFT: f64 = 190.0;
const TOP: usize = 60;

const COLOURS: [(&str, &str); 4] = [
    ("#3a9d4b", "own code"),
    ("#3467c2", "kernel, on a processor"),
    ("#f0a030", "kernel, asleep"),
    ("#d03030", "ready, waits for a processor"),
];

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

struct Picture {
    text: String,
    zero: u64,
}

impl Picture {
    fn x(&self, at: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of one pod's life")]
        let micros = at.saturating_sub(self.zero) as f64;
        LEFT + micros * SCALE / 1000.0
    }

    fn bar(&mut self, row: usize, span: Span, colour: &str, title: &str) {
        let (from, to) = (self.x(span.begin), self.x(span.end));
        let (y, width) = (TOP + row * ROW, (to - from).max(0.1));
        let title = escaped(title);
        // Writing to a String does not fail.
        writeln!(
            self.text,
            "<rect x='{from:.2}' y='{y}' width='{width:.2}' height='12' fill='{colour}'><title>{title}</title></rect>"
        )
        .ok();
    }

    fn word(&mut self, x: f64, y: usize, text: &str) {
        writeln!(self.text, "<text x='{x:.1}' y='{y}'>{}</text>", escaped(text)).ok();
    }

    fn line(&mut self, row: usize, line: &Line) {
        let name: String = line.label.chars().take(30).collect();
        self.word(4.0, TOP + row * ROW + 10, &name);
        let alive = Span {
            begin: line.begin,
            end: line.end,
        };
        let about = |span: Span, what: &str| format!("{what}, {} µs ({} {})", span.length(), line.label, line.task);
        self.bar(row, alive, COLOURS[0].0, &about(alive, "own code"));
        for call in &line.calls {
            let text = format!("{}({}) = {}", call.name, call.arguments, call.result);
            self.bar(row, call.span, COLOURS[1].0, &about(call.span, &text));
            for away in line.away_in(call).filter(|away| away.reason.is_some()) {
                let reason = away.reason.as_deref().unwrap_or_default();
                let span = away.span.cut(call.span);
                let colour = if call.is_wait() { "#e4e4e4" } else { COLOURS[2].0 };
                self.bar(
                    row,
                    span,
                    colour,
                    &about(span, &format!("{} asleep: {reason}", call.name)),
                );
            }
            let width = self.x(call.span.end) - self.x(call.span.begin);
            if !call.is_wait() && width > 34.0 {
                self.word(self.x(call.span.begin) + 1.0, TOP + row * ROW + 10, &call.name);
            }
        }
        for away in line.away.iter().filter(|away| away.reason.is_none()) {
            self.bar(
                row,
                away.span,
                COLOURS[3].0,
                &about(away.span, "ready, waits for a processor"),
            );
        }
    }
}

pub(super) fn draw(lines: &Lines, steps: &[Step]) -> String {
    let mut picture = Picture {
        text: String::new(),
        zero: lines.whole.begin,
    };
    let bottom = TOP + (lines.lines.len() + 1) * ROW;
    for step in steps {
        let (from, to) = (picture.x(step.begin), picture.x(step.end));
        writeln!(
            picture.text,
            "<path d='M{from:.1} 22V{bottom}M{to:.1} 22V{bottom}' stroke='#999' stroke-width='.5'/>"
        )
        .ok();
        let wall = step.end - step.begin;
        picture.word(from + 2.0, 32, step.name);
        picture.word(from + 2.0, 45, &format!("{wall} µs"));
    }
    let mut x = LEFT;
    for (colour, meaning) in COLOURS.into_iter().chain([("#e4e4e4", "waits for another process")]) {
        writeln!(
            picture.text,
            "<rect x='{x}' y='3' width='10' height='10' fill='{colour}'/>"
        )
        .ok();
        picture.word(x + 14.0, 12, meaning);
        x += 190.0;
    }
    for (row, line) in lines.lines.iter().enumerate() {
        picture.line(row, line);
    }
    let width = picture.x(lines.whole.end) + 20.0;
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0}' height='{bottom}' font-family='sans-serif' font-size='10'>\n\
         <rect width='100%' height='100%' fill='white'/>\n{}</svg>\n",
        picture.text
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::line::Call;

    #[test]
    fn rows_and_tool_tips() {
        let span = Span { begin: 1000, end: 3000 };
        let call = Call {
            name: "mkdir".into(),
            arguments: "<a>".into(),
            result: "0x0".into(),
            span,
        };
        let line = Line {
            task: 9,
            label: "a < b".into(),
            begin: 1000,
            end: 3000,
            calls: vec![call],
            ..Line::default()
        };
        let lines = Lines {
            lines: vec![line],
            whole: span,
        };
        let text = draw(&lines, &[]);
        assert!(
            text.contains("<title>mkdir(&lt;a&gt;) = 0x0, 2000 µs (a &lt; b 9)</title>"),
            "{text}"
        );
        assert!(text.contains("x='190.00' y='60' width='100.00'"), "{text}");
    }
}
