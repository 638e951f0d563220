//! The samples as a picture: one strip for each figure, over the same time.

use std::fmt::Write;

use crate::sample::Sample;

const WIDTH: f64 = 640.0;
const STRIP: f64 = 90.0;
const LEFT: f64 = 60.0;
/// No more points than these can be told apart.
const POINTS: usize = 600;

/// A line in a strip: its name, and its colour.
type Line = (&'static str, &'static str, fn(&[Sample]) -> f64);

/// The strips, each with its title. A value is that of some samples that follow one another.
const STRIPS: &[(&str, &[Line])] = &[
    (
        "memory, MiB",
        &[
            ("PSS", "#357", |part| mean(part, |sample| sample.pss as f64 / 1024.0)),
            ("anonymous", "#a53", |part| mean(part, |sample| sample.anon as f64 / 1024.0)),
        ],
    ),
    (
        "open files and threads",
        &[
            ("files", "#357", |part| mean(part, |sample| sample.files as f64)),
            ("threads", "#a53", |part| mean(part, |sample| sample.threads as f64)),
        ],
    ),
    (
        "lines a second, thousands",
        &[("", "#357", |part| rate(part, |sample| sample.calls.lines as f64 / 1000.0))],
    ),
    ("CPU, % of a core", &[("", "#357", |part| rate(part, |sample| sample.cpu * 100.0))]),
];

fn mean(part: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    part.iter().map(figure).sum::<f64>() / part.len().max(1) as f64
}

/// By how much it grows in a second.
fn rate(part: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    let (Some(first), Some(last)) = (part.first(), part.last()) else { return 0.0 };
    let seconds = last.time.saturating_sub(first.time).as_secs_f64();
    if seconds > 0.0 { (figure(last) - figure(first)) / seconds } else { 0.0 }
}

/// As SVG.
pub(crate) fn plot(samples: &[Sample]) -> String {
    let height = STRIPS.len() as f64 * (STRIP + 34.0) + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n",
        WIDTH + LEFT + 20.0
    );
    let end = samples.last().map_or(1.0, |sample| sample.time.as_secs_f64());
    for (index, (title, lines)) in STRIPS.iter().enumerate() {
        strip(&mut svg, index as f64 * (STRIP + 34.0) + 24.0, (title, lines), samples, end);
    }
    for tenth in 0..=10 {
        let (x, minutes) = (LEFT + WIDTH * f64::from(tenth) / 10.0, end * f64::from(tenth) / 600.0);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{minutes:.0} min</text>",
            height - 8.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn strip(svg: &mut String, top: f64, (title, lines): (&str, &[Line]), samples: &[Sample], end: f64) {
    // Neighbours overlap by one, because a rate needs two samples.
    let size = (samples.len() / POINTS).max(5);
    let parts: Vec<&[Sample]> = samples.windows(size + 1).step_by(size).collect();
    let values = |value: fn(&[Sample]) -> f64| parts.iter().map(move |part| value(part));
    let most = lines.iter().flat_map(|(_, _, value)| values(*value)).fold(0.0, f64::max).max(0.001) * 1.1;
    let _ = writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{top:.0}\" width=\"{WIDTH}\" height=\"{STRIP}\" fill=\"#f4f4f4\"/>"
    );
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{:.0}\">{title}</text>", top - 6.0);
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{most:.1}</text>",
        LEFT - 6.0,
        top + 10.0
    );
    let _ =
        writeln!(svg, "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">0</text>", LEFT - 6.0, top + STRIP);
    for (index, (name, colour, value)) in lines.iter().enumerate() {
        let mut points = String::new();
        for (part, value) in parts.iter().zip(values(*value)) {
            let time = part.last().map_or(0.0, |sample| sample.time.as_secs_f64());
            let _ =
                write!(points, "{:.1},{:.1} ", LEFT + WIDTH * time / end, top + STRIP * (1.0 - value / most));
        }
        let _ =
            writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", points.trim_end());
        let x = LEFT + WIDTH - 160.0 + index as f64 * 90.0;
        let _ = writeln!(svg, "<text x=\"{x:.0}\" y=\"{:.0}\" fill=\"{colour}\">{name}</text>", top - 6.0);
    }
}
