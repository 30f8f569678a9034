//! stub
#![allow(missing_docs)]
use super::weights::Checkpoint;
pub struct ChatTemplate {
    s: Vec<String>,
}
impl ChatTemplate {
    pub fn open(_c: &Checkpoint, _n: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self { s: vec![] })
    }
    pub fn render(&self, q: &str) -> anyhow::Result<String> {
        Ok(format!("USER: <image>\n{q} ASSISTANT:"))
    }
    pub fn name(&self) -> &str {
        "x"
    }
    pub fn stop_strings(&self) -> &[String] {
        &self.s
    }
}
