//! What critest's JSON report says, in a few lines.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// The outcome of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Names.
    pub(crate) passed: Vec<String>,
    /// Name and message.
    pub(crate) failed: Vec<(String, String)>,
    /// Reason, then names.
    pub(crate) skipped: BTreeMap<String, Vec<String>>,
}

impl Report {
    /// Reads the file that `-ginkgo.json-report` wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context("critest wrote no report")?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let suites: Vec<Suite> = serde_json::from_str(text).context("critest's report is not as expected")?;
        let mut report = Self::default();
        let specs = suites.into_iter().flat_map(|suite| suite.spec_reports);
        for spec in specs {
            // Besides specs there are set-up nodes; those count where they fail.
            if spec.leaf_node_type != "It" && spec.state == "passed" {
                continue;
            }
            let name = spec.name();
            let message = spec.failure.map(|failure| failure.message).unwrap_or_default();
            match spec.state.as_str() {
                "passed" => report.passed.push(name),
                "skipped" | "pending" => {
                    let reason = match message.as_str() {
                        "" if name.contains("benchmark") => "benchmarks are off",
                        "" => "not chosen",
                        other => other,
                    };
                    report.skipped.entry(reason.to_owned()).or_default().push(name);
                }
                other => report.failed.push((name, format!("{other}: {message}"))),
            }
        }
        Ok(report)
    }

    /// `ran … passed … failed … skipped`.
    pub(crate) fn counts(&self) -> String {
        let skipped: usize = self.skipped.values().map(Vec::len).sum();
        let ran = self.passed.len() + self.failed.len();
        format!(
            "{} specs: {ran} ran, {} passed, {} failed, {skipped} skipped",
            ran + skipped,
            self.passed.len(),
            self.failed.len()
        )
    }

    /// Prints everything.
    pub(crate) fn print(&self) {
        for name in &self.passed {
            println!("passed   {name}");
        }
        for (reason, names) in &self.skipped {
            println!("skipped  {} specs: {reason}", names.len());
            for name in names {
                println!("         {name}");
            }
        }
        for (name, message) in &self.failed {
            println!(
                "FAILED   {name}\n         {}",
                message.trim().replace('\n', "\n         ")
            );
        }
    }
}

impl Spec {
    fn name(&self) -> String {
        let mut words = self.container_hierarchy_texts.clone().unwrap_or_default();
        words.push(self.leaf_node_text.clone());
        words.join(" ").trim_start_matches("[k8s.io] ").trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_sorted_by_state_and_reason() {
        let text = r#"[{"SpecReports": [
            {"ContainerHierarchyTexts": ["[k8s.io] A", "b"], "LeafNodeType": "It", "LeafNodeText": "works", "State": "passed"},
            {"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"},
            {"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeType": "It", "LeafNodeText": "breaks", "State": "failed", "Failure": {"Message": "no"}},
            {"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeType": "It", "LeafNodeText": "hangs", "State": "timedout", "Failure": {"Message": "late"}},
            {"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeType": "It", "LeafNodeText": "x", "State": "skipped", "Failure": {"Message": "no AppArmor"}},
            {"ContainerHierarchyTexts": ["[k8s.io] A benchmark"], "LeafNodeType": "It", "LeafNodeText": "y", "State": "skipped"}]}]"#;
        let report = Report::parse(text).unwrap();
        assert_eq!(report.passed, ["A b works"]);
        assert_eq!(report.failed.len(), 2);
        assert_eq!(report.skipped["no AppArmor"], ["A x"]);
        assert_eq!(report.skipped["benchmarks are off"].len(), 1);
        assert_eq!(report.counts(), "5 specs: 3 ran, 1 passed, 2 failed, 2 skipped");
    }
}
