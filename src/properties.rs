//! What must hold for any bytes from outside. The properties are next to what they are about, in
//! files of this name; the tests and the targets of `fuzz/` share them. Inputs that violated one
//! are kept in `fuzz/corpus`.

pub(crate) mod lines;

pub use crate::core::properties::{checkpoint, cycles};
pub use crate::docgen::properties::texts;
pub use crate::export::otlp::properties::{delivered, receivers};
pub use crate::http::web_config::properties::web_config;
pub use crate::prefect::properties::{answers, headers};
pub use crate::settings::properties::{files, profiles, variables};

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 11] = [
        ("answers", answers),
        ("checkpoint", checkpoint),
        ("cycles", cycles),
        ("delivered", delivered),
        ("files", files),
        ("headers", headers),
        ("profiles", profiles),
        ("receivers", receivers),
        ("texts", texts),
        ("variables", variables),
        ("web_config", web_config),
    ];

    fn names(folder: &Path) -> Vec<String> {
        let files = std::fs::read_dir(folder).unwrap();
        let names = files.map(|file| {
            let path = file.unwrap().path();
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        });
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn every_property_holds_for_the_corpus() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let known = TARGETS.map(|(name, _)| name);
        assert_eq!(names(&fuzz.join("targets")), known);
        for (name, target) in TARGETS {
            let folder = fuzz.join("corpus").join(name);
            let files = std::fs::read_dir(folder).unwrap();
            let mut read = 0;
            for file in files {
                target(&std::fs::read(file.unwrap().path()).unwrap());
                read += 1;
            }
            assert!(read > 0, "no corpus of {name}");
        }
    }
}
