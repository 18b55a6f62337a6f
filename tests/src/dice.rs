/// Random numbers from a seed, the same on every machine (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice that always fall alike for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seed of a test: from the environment variable `variable`, else `otherwise`. It is printed.
    ///
    /// # Panics
    /// If the variable holds something else than a number.
    pub fn seed(variable: &str, otherwise: u64) -> u64 {
        let seed = std::env::var(variable).map_or(otherwise, |text| {
            text.parse().expect("a seed is a whole number")
        });
        eprintln!("{variable}={seed}");
        seed
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end
    }

    /// Whether something of this likelihood happens.
    pub fn percent(&mut self, likely: u64) -> bool {
        self.below(100) < likely
    }
}
