//! The samples as a picture (SVG).

use std::fmt::Write as _;

use super::watch::Sample;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const PANEL: f64 = 120.0;
const TOP: f64 = 46.0;
const GAP: f64 = 44.0;
/// More points than pixels only make the file larger.
const MOST_POINTS: usize = 360;

/// One line of a panel.
type Line = (&'static str, fn(&Sample) -> f64);

/// The panels, one below the other: title, colours and lines.
const PANELS: [(&str, &[(&str, Line)]); 3] = [
    (
        "Resident memory (MiB)",
        &[(
            "#1f77b4",
            ("", |sample| sample.resident_bytes as f64 / 1_048_576.0),
        )],
    ),
    (
        "Open file descriptors",
        &[("#2ca02c", ("", |sample| sample.descriptors as f64))],
    ),
    (
        "Terminal states",
        &[
            ("#d62728", ("in Prefect", |sample| sample.ended as f64)),
            ("#1f77b4", ("counted", |sample| sample.counted as f64)),
        ],
    ),
];

/// Draws the samples below this title.
pub(super) fn draw(title: &str, samples: &[Sample]) -> String {
    let step = samples.len().div_ceil(MOST_POINTS).max(1);
    let samples: Vec<Sample> = samples.iter().step_by(step).copied().collect();
    let minutes = samples.last().map_or(0.0, minute).max(1.0);
    let height = TOP + PANELS.len() as f64 * (PANEL + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    for (index, (title, lines)) in PANELS.iter().enumerate() {
        let top = TOP + index as f64 * (PANEL + GAP);
        panel(&mut svg, top, title, lines, &samples, minutes);
    }
    svg += "</svg>\n";
    svg
}

fn minute(sample: &Sample) -> f64 {
    sample.at.as_secs_f64() / 60.0
}

fn panel(
    svg: &mut String,
    top: f64,
    title: &str,
    lines: &[(&str, Line)],
    samples: &[Sample],
    minutes: f64,
) {
    let values = lines
        .iter()
        .flat_map(|(_, (_, value))| samples.iter().map(value));
    let most = nice(values.fold(1.0, f64::max));
    let x = |minute: f64| LEFT + (WIDTH - LEFT - RIGHT) * minute / minutes;
    let y = |value: f64| top + PANEL * (1.0 - value / most);
    let mut put = |text: std::fmt::Arguments<'_>| _ = writeln!(svg, "{text}");
    put(format_args!(
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#333\">{title}</text>",
        top - 6.0
    ));
    for quarter in 0..=4 {
        let value = most * f64::from(quarter) / 4.0;
        let (at, right) = (y(value), WIDTH - RIGHT);
        put(format_args!(
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#333\">{value}</text>",
            LEFT - 6.0,
            at + 4.0
        ));
    }
    for sixth in 0..=6 {
        let minute = minutes * f64::from(sixth) / 6.0;
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#333\">{minute:.0} min</text>",
            x(minute),
            top + PANEL + 16.0
        ));
    }
    for (index, (colour, (name, value))) in lines.iter().enumerate() {
        let points = samples.iter().map(|sample| {
            let (x, y) = (x(minute(sample)), y(value(sample)));
            format!("{x:.1},{y:.1}")
        });
        let points = points.collect::<Vec<_>>().join(" ");
        // Lines that lie on each other are both visible.
        let width = 1.5 + 2.5 * (lines.len() - 1 - index) as f64;
        put(format_args!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" points=\"{points}\"/>"
        ));
        put(format_args!(
            "<text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            LEFT + 130.0 + 90.0 * index as f64,
            top - 6.0
        ));
    }
}

/// The next larger number that is easy to divide by four.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(value)
}

#[test]
fn a_picture_has_a_line_for_each_value() {
    let sample = |second: u64| Sample {
        at: std::time::Duration::from_secs(second),
        resident_bytes: 40 << 20,
        descriptors: 20,
        ended: second,
        counted: second,
    };
    let samples: Vec<_> = (0..3_600).step_by(5).map(sample).collect();
    let svg = draw("An hour", &samples);
    assert_eq!(svg.matches("<polyline").count(), 4);
    assert!(
        svg.contains(">60 min<") && svg.len() < 40_000,
        "{}",
        svg.len()
    );
    assert_eq!([nice(41.0), nice(0.7), nice(8.0)], [60.0, 0.8, 8.0]);
}
