//! Quantities: their value, because the API server rewrites them (`1024Mi` comes back as `1Gi`).
//!
//! Grammar: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

/// Value of a quantity in thousandths, rounded up; `None` when it is none. Thousandths are the finest that matter for
/// what we compare: `500m` of a CPU.
pub fn thousandths(text: &str) -> Option<i128> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (multiplier, divisor) = scale(suffix)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let ten = 10_i128;
    let divisor = divisor.checked_mul(ten.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let scaled = digits.checked_mul(multiplier)?.checked_mul(1000)?;
    let value = scaled.checked_add(divisor - 1)? / divisor;
    Some(if negative { -value } else { value })
}

/// Multiplier and divisor of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    const KIBI: i128 = 1024;
    let of = |multiplier: i128| Some((multiplier, 1));
    match suffix {
        "" => of(1),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => of(1000),
        "M" => of(1_000_000),
        "G" => of(1_000_000_000),
        "T" => of(1_000_000_000_000),
        "P" => of(1_000_000_000_000_000),
        "E" => of(1_000_000_000_000_000_000),
        "Ki" => of(KIBI),
        "Mi" => of(KIBI.pow(2)),
        "Gi" => of(KIBI.pow(3)),
        "Ti" => of(KIBI.pow(4)),
        "Pi" => of(KIBI.pow(5)),
        "Ei" => of(KIBI.pow(6)),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

/// Bytes of a quantity, rounded up.
pub fn bytes(text: &str) -> Option<i64> {
    let thousandths = thousandths(text)?;
    i64::try_from(thousandths.checked_add(999)? / 1000).ok()
}

/// Whether two quantities have the same value.
pub fn equal(a: &str, b: &str) -> bool {
    a == b || thousandths(a).is_some_and(|value| thousandths(b) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, value) in [
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("100u", 1),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("5E-1", 500),
            ("1E", 1_000_000_000_000_000_000_000),
            ("-1", -1000),
        ] {
            assert_eq!(thousandths(text), Some(value), "{text}");
        }
        for text in ["", ".", "Gi", "1 Gi", "1gi", "1.2.3", "x", "1e", "--1", "9e99", "0x10"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }

    #[test]
    fn the_api_servers_spelling_is_the_same_quantity() {
        assert!(equal("1024Mi", "1Gi") && equal("1000m", "1") && equal("0.5", "500m"));
        assert!(!equal("1G", "1Gi") && !equal("x", "y") && equal("x", "x"));
    }

    #[test]
    fn whole_bytes() {
        assert_eq!(bytes("50Gi"), Some(53_687_091_200));
        assert_eq!(bytes("1m"), Some(1));
        assert_eq!(bytes("100E"), None);
    }
}
