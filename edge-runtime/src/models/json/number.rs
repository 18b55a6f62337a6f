//! Decimal numbers of JSON as integers and floats, each the nearest to what is written.

/// A decimal number: `mantissa` times ten to the `exponent`.
struct Decimal {
    negative: bool,
    mantissa: u64,
    exponent: i32,
    /// Whether `mantissa` holds every digit.
    exact: bool,
    length: usize,
}

/// As many decimal digits always fit a u64.
const DIGITS: usize = 19;

/// Reads the number at the start of `text` by JSON's rules: no plus, no leading zero, digits on both sides of a point.
///
/// Signs, and how many digits there are, differ from number to number in ways that no processor foresees; so they are
/// worked out rather than branched on.
#[inline]
fn decimal(text: &[u8]) -> Option<Decimal> {
    let negative = text.first() == Some(&b'-');
    let whole = usize::from(negative);
    let (mut at, mut mantissa) = digits(text, whole, 0);
    if !is_whole(text, whole, at) {
        return None;
    }
    let mut count = at - whole;
    let mut exponent = 0;
    if text.get(at) == Some(&b'.') {
        let point = at + 1;
        (at, mantissa) = digits(text, point, mantissa);
        if at == point {
            return None;
        }
        count += at - point;
        exponent = -i32::try_from(at - point).ok()?;
    }
    let mut exact = count <= DIGITS || significant(&text[whole..at]) <= DIGITS;
    if let Some(b'e' | b'E') = text.get(at) {
        let sign = text.get(at + 1);
        let first = at + 1 + usize::from(matches!(sign, Some(b'-' | b'+')));
        let (end, power) = digits(text, first, 0);
        if end == first {
            return None;
        }
        // More than nine digits of a power may have wrapped round; the standard library knows what they mean.
        exact &= end - first <= 9;
        let power = i32::try_from(power).unwrap_or(i32::MAX);
        let power = if sign == Some(&b'-') { -power } else { power };
        exponent = exponent.saturating_add(power);
        at = end;
    }
    Some(Decimal {
        negative,
        mantissa,
        exponent,
        exact,
        length: at,
    })
}

/// Whether the digits between two places are a whole number: at least one, and no zero before others.
#[inline]
fn is_whole(text: &[u8], from: usize, to: usize) -> bool {
    to == from + 1 || (to > from && text[from] != b'0')
}

/// How many digits stand behind the zeros that a number begins with.
#[cold]
fn significant(number: &[u8]) -> usize {
    let behind = number.iter().skip_while(|byte| matches!(byte, b'0' | b'.'));
    behind.filter(|byte| **byte != b'.').count()
}

/// Appends the digits from `at` on to `number`, wrapping round, and gives the place behind them.
#[inline]
fn digits(text: &[u8], mut at: usize, mut number: u64) -> (usize, u64) {
    const POWERS: [u64; 9] = [
        1,
        10,
        100,
        1_000,
        10_000,
        100_000,
        1_000_000,
        10_000_000,
        100_000_000,
    ];
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let (count, value) = leading_digits(*eight);
        number = number.wrapping_mul(POWERS[count]).wrapping_add(value);
        at += count;
        if count < 8 {
            return (at, number);
        }
    }
    while let Some(digit @ b'0'..=b'9') = text.get(at) {
        number = number
            .wrapping_mul(10)
            .wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    (at, number)
}

/// How many of eight bytes are digits, up to the first that is none, and the number that they spell. All eight are
/// worked on together, one to a byte of a word.
#[inline]
fn leading_digits(eight: [u8; 8]) -> (usize, u64) {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const TEN_OR_MORE: u64 = 0x7676_7676_7676_7676;
    const EACH_FOURTH: u64 = 0x0000_00ff_0000_00ff;
    let bytes = u64::from_le_bytes(eight) ^ 0x3030_3030_3030_3030;
    // A carry goes upwards, away from the first byte that is no digit.
    let others = (bytes.wrapping_add(TEN_OR_MORE) | bytes) & HIGH;
    let bits = others.trailing_zeros() & !7;
    // Zeros in place of what is missing, before the digits.
    let bytes = bytes.unbounded_shl(64 - bits);
    let pairs = bytes.wrapping_mul(10).wrapping_add(bytes >> 8);
    // Pairs weigh 10^6 and 10^2, and 10^4 and 1; the sum stands in the upper half.
    let first = (pairs & EACH_FOURTH).wrapping_mul(100 + (1_000_000 << 32));
    let second = ((pairs >> 16) & EACH_FOURTH).wrapping_mul(1 + (10_000 << 32));
    ((bits / 8) as usize, first.wrapping_add(second) >> 32)
}

/// The integer at the start of `text`, and its length.
#[inline]
pub(super) fn integer<T: TryFrom<u64> + TryFrom<i64>>(text: &[u8]) -> Option<(T, usize)> {
    let negative = text.first() == Some(&b'-');
    let first = usize::from(negative);
    let (end, mut magnitude) = digits(text, first, 0);
    if !is_whole(text, first, end) {
        return None;
    }
    if end - first > DIGITS {
        let exact = std::str::from_utf8(&text[first..end]).ok()?;
        magnitude = exact.parse().ok()?;
    }
    let value = if negative {
        T::try_from(0_i64.checked_sub_unsigned(magnitude)?).ok()?
    } else {
        T::try_from(magnitude).ok()?
    };
    Some((value, end))
}

/// A double within two units in its last place of the number. It is the nearest one if the mantissa is at most 2^53:
/// then both factors are exact, and one operation rounds once.
#[inline]
fn near_double(decimal: &Decimal) -> Option<f64> {
    const POWERS: [f64; 23] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
        1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
    ];
    // Signed numbers become doubles in one instruction.
    let mantissa = i64::try_from(decimal.mantissa).ok()?;
    if !decimal.exact {
        return None;
    }
    let power = POWERS.get(decimal.exponent.unsigned_abs() as usize)?;
    let mantissa = mantissa as f64;
    let value = if decimal.exponent < 0 {
        mantissa / power
    } else {
        mantissa * power
    };
    let sign = u64::from(decimal.negative) << 63;
    Some(f64::from_bits(value.to_bits() | sign))
}

/// The double at the start of `text`, and its length.
#[inline]
pub(super) fn float64(text: &[u8]) -> Option<(f64, usize)> {
    let decimal = decimal(text)?;
    let value = match near_double(&decimal) {
        Some(value) if decimal.mantissa <= 1 << 53 => value,
        _ => by_the_book(text, decimal.length)?,
    };
    value.is_finite().then_some((value, decimal.length))
}

/// The float at the start of `text`, and its length.
#[inline]
pub(super) fn float32(text: &[u8]) -> Option<(f32, usize)> {
    let decimal = decimal(text)?;
    let value = match near_double(&decimal).and_then(rounds_surely) {
        Some(value) => value,
        None => by_the_book(text, decimal.length)?,
    };
    value.is_finite().then_some((value, decimal.length))
}

/// Rounds a double that is within two units of a number to the float nearest to the number. None near the middle
/// between two floats, where those two units may hide the right side, and for floats that are subnormal.
#[inline]
fn rounds_surely(value: f64) -> Option<f32> {
    const MIDDLE: u64 = 0x1000_0000;
    let from_the_middle = (value.to_bits() & 0x1fff_ffff).abs_diff(MIDDLE);
    let normal = value == 0.0 || value.abs() >= f64::from(f32::MIN_POSITIVE);
    (from_the_middle > 4 && normal).then_some(value as f32)
}

#[cold]
fn by_the_book<T: std::str::FromStr>(text: &[u8], length: usize) -> Option<T> {
    std::str::from_utf8(&text[..length]).ok()?.parse().ok()
}
