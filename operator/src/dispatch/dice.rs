//! A small deterministic generator (Knuth's MMIX constants) for tests, so that a failing case can be named by its number.

pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % end as u64).unwrap()
    }

    /// Above 0 and not above 1.
    pub fn share(&mut self) -> f64 {
        f64::from(u32::try_from(self.below(1 << 20)).unwrap() + 1) / f64::from(1_u32 << 20)
    }

    /// Exponentially distributed around this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -self.share().ln() * mean
    }
}
