use crate::promise::Verdict;

/// Failures of which all is told.
const TOLD: usize = 12;

/// What many trials have come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Trials.
    pub trials: u64,
    /// Folders that could not be used.
    pub unopenable: u64,
    /// Trials after which something acknowledged was not there.
    pub lost: u64,
    /// Trials after which something was there that should not.
    pub wrong: u64,
    /// Records that were read and compared.
    pub records: u64,
    /// Buffers that were set aside.
    pub new_epochs: u64,
    /// The first failures, each with what repeats it.
    pub failures: Vec<String>,
}

impl Tally {
    /// Counts a verdict and tells at once what is not good, as the rest may take hours;
    /// `trial` says which trial it was.
    pub fn count(&mut self, trial: &str, verdict: &Verdict) {
        self.trials += 1;
        self.records += verdict.records;
        self.new_epochs += u64::from(verdict.new_epoch);
        self.unopenable += u64::from(verdict.unopenable.is_some());
        self.lost += u64::from(!verdict.lost.is_empty());
        self.wrong += u64::from(!verdict.wrong.is_empty());
        if !verdict.is_good() {
            let Verdict {
                unopenable,
                lost,
                wrong,
                ..
            } = verdict;
            let mut lost = lost.clone();
            lost.truncate(4);
            let mut wrong = wrong.clone();
            wrong.truncate(4);
            let failure =
                format!("{trial}: unopenable {unopenable:?}, lost {lost:?}, wrong {wrong:?}");
            eprintln!("{failure}");
            if self.failures.len() < TOLD {
                self.failures.push(failure);
            }
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.trials += other.trials;
        self.unopenable += other.unopenable;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.records += other.records;
        self.new_epochs += other.new_epochs;
        self.failures.extend(other.failures);
        self.failures.truncate(TOLD);
    }

    /// Whether every trial was good.
    pub fn is_good(&self) -> bool {
        self.unopenable == 0 && self.lost == 0 && self.wrong == 0
    }
}
