//! "2026-11-20T09:01:59.123456789Z": always 30 bytes, always UTC, so that a reader may slice it. The part up to the
//! second is kept: a busy container writes millions of lines a second.

use rustix::time::{ClockId, clock_gettime};

/// Length of a stamp.
pub(crate) const STAMP: usize = 30;

/// Writes stamps.
#[derive(Debug)]
pub(crate) struct Clock {
    second: i64,
    stamp: [u8; STAMP],
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            second: i64::MIN,
            stamp: *b"1970-01-01T00:00:00.000000000Z",
        }
    }

    /// The time now.
    pub(crate) fn now(&mut self) -> [u8; STAMP] {
        let now = clock_gettime(ClockId::Realtime);
        self.at(now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    fn at(&mut self, second: i64, nanosecond: u32) -> [u8; STAMP] {
        if second != self.second {
            self.second = second;
            self.set_second();
        }
        digits(&mut self.stamp[20..29], nanosecond);
        self.stamp
    }

    /// Civil date from the days since the epoch: years start in March here, so that the leap day is the last of its
    /// year and 400 years repeat exactly.
    fn set_second(&mut self) {
        let days = self.second.div_euclid(86_400) + 719_468;
        let in_day = self.second.rem_euclid(86_400);
        let era = days.div_euclid(146_097);
        let day = days.rem_euclid(146_097);
        let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let parts = [
            (0..4, year),
            (5..7, month),
            (8..10, day_of_month),
            (11..13, in_day / 3600),
            (14..16, in_day / 60 % 60),
            (17..19, in_day % 60),
        ];
        for (range, value) in parts {
            digits(&mut self.stamp[range], u32::try_from(value).unwrap_or(0));
        }
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn nanoseconds() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

fn digits(place: &mut [u8], mut value: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        let mut clock = Clock::new();
        let mut text = |second, nanosecond| String::from_utf8(clock.at(second, nanosecond).to_vec()).unwrap();
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_827_696, 1), "2000-02-29T12:34:56.000000001Z");
        assert_eq!(text(1_709_251_199, 999_999_999), "2024-02-29T23:59:59.999999999Z");
        assert_eq!(text(1_709_251_200, 5), "2024-03-01T00:00:00.000000005Z");
        assert_eq!(text(4_102_444_799, 0), "2099-12-31T23:59:59.000000000Z");
        assert_eq!(text(-1, 0), "1969-12-31T23:59:59.000000000Z");
    }
}
