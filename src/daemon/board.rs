//! A board's sensors under `/sys`: temperatures, CPU frequencies, and throttling.

use std::path::{Path, PathBuf};

/// One reading. What a board does not report is missing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Zone, and temperature in °C.
    pub temperatures: Vec<(String, f64)>,
    /// Frequency domain (cores that change together), and frequency in Hz.
    pub frequencies: Vec<(String, f64)>,
    /// Reasons for throttling; empty if the CPU is not throttled.
    pub throttled: Vec<&'static str>,
    /// Whether the board reports throttling at all.
    pub reports_throttling: bool,
}

/// Reads a board's sensors, and remembers its throttling counters.
#[derive(Debug)]
pub struct Board {
    root: PathBuf,
    /// x86 counts throttling events and reports no state.
    throttle_events: Option<u64>,
}

/// Bits of the Raspberry Pi firmware's `get_throttled` for the current state; higher bits are history.
const FIRMWARE_BITS: [(u64, &str); 4] = [
    (1, "supply voltage too low"),
    (1 << 1, "frequency capped by the firmware"),
    (1 << 2, "throttled by the firmware"),
    (1 << 3, "soft temperature limit reached"),
];
const FIRMWARE: &str = "devices/platform/soc/soc:firmware/get_throttled";
const TOO_HOT: &str = "cooled by the kernel";

impl Default for Board {
    fn default() -> Self {
        Self::at(Path::new("/sys"))
    }
}

impl Board {
    /// The board whose `/sys` is at `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), throttle_events: None }
    }

    /// Reads all sensors.
    pub fn read(&mut self) -> Reading {
        let mut reading = Reading::default();
        for zone in self.folders("class/thermal", "thermal_zone") {
            if let Some(millidegrees) = number(&zone.join("temp")) {
                let kind = text(&zone.join("type")).unwrap_or_default();
                let name = zone.file_name().unwrap_or_default().to_string_lossy().replace("thermal_", "");
                let name = if kind.is_empty() { name } else { format!("{name}:{kind}") };
                reading.temperatures.push((name, millidegrees as f64 / 1e3));
            }
        }
        for policy in self.folders("devices/system/cpu/cpufreq", "policy") {
            if let Some(kilohertz) = number(&policy.join("scaling_cur_freq")) {
                let name = policy.file_name().unwrap_or_default().to_string_lossy().into_owned();
                reading.frequencies.push((name, kilohertz as f64 * 1e3));
            }
        }
        let firmware =
            text(&self.root.join(FIRMWARE)).and_then(|bits| u64::from_str_radix(bits.trim_start_matches("0x"), 16).ok());
        if let Some(bits) = firmware {
            reading.reports_throttling = true;
            reading.throttled.extend(FIRMWARE_BITS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, why)| *why));
        }
        // Kernels without the firmware's file report the voltage here.
        let supply = |monitor: &PathBuf| text(&monitor.join("name")).is_some_and(|name| name == "rpi_volt");
        let alarms = self.folders("class/hwmon", "hwmon").into_iter().filter(supply);
        for alarm in alarms.filter_map(|monitor| number(&monitor.join("in0_lcrit_alarm"))) {
            reading.reports_throttling = true;
            if alarm != 0 && !reading.throttled.contains(&FIRMWARE_BITS[0].1) {
                reading.throttled.push(FIRMWARE_BITS[0].1);
            }
        }
        let cooling = self.folders("class/thermal", "cooling_device");
        let of_processor = |device: &PathBuf| text(&device.join("type")).is_some_and(|kind| kind.contains("cpufreq"));
        for state in cooling.into_iter().filter(of_processor).filter_map(|device| number(&device.join("cur_state"))) {
            reading.reports_throttling = true;
            if state > 0 && !reading.throttled.contains(&TOO_HOT) {
                reading.throttled.push(TOO_HOT);
            }
        }
        let cores = self.folders("devices/system/cpu", "cpu");
        let events: Vec<i64> =
            cores.iter().filter_map(|core| number(&core.join("thermal_throttle/core_throttle_count"))).collect();
        if !events.is_empty() {
            reading.reports_throttling = true;
            let events = events.iter().map(|count| (*count).max(0) as u64).sum();
            if self.throttle_events.replace(events).is_some_and(|before| events > before) {
                reading.throttled.push("throttled by the CPU");
            }
        }
        reading
    }

    /// Folders in `place` named `prefix` and a number, in numerical order.
    fn folders(&self, place: &str, prefix: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root.join(place)).into_iter().flatten().flatten();
        let numbered = |entry: std::fs::DirEntry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse::<u32>().ok()?;
            Some((number, entry.path()))
        };
        let mut found: Vec<_> = entries.filter_map(numbered).collect();
        found.sort();
        found.into_iter().map(|(_, path)| path).collect()
    }
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &Path) -> Option<i64> {
    text(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    }

    #[test]
    fn a_hot_raspberry_pi_is_throttled_until_it_cools() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, "class/thermal/thermal_zone0/temp", "81200");
        write(root, "class/thermal/thermal_zone0/type", "cpu-thermal");
        write(root, "devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1000000");
        // Bit 18 is history: throttled at some time since boot.
        write(root, FIRMWARE, "40008");
        let mut board = Board::at(root);
        let reading = board.read();
        assert_eq!(reading.temperatures, [("zone0:cpu-thermal".to_owned(), 81.2)]);
        assert_eq!(reading.frequencies, [("policy0".to_owned(), 1e9)]);
        assert_eq!(reading.throttled, ["soft temperature limit reached"]);
        write(root, FIRMWARE, "40000");
        let reading = board.read();
        assert!(reading.reports_throttling && reading.throttled.is_empty());
    }

    #[test]
    fn cooling_by_the_kernel_is_throttling_and_a_fan_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, "class/thermal/cooling_device0/type", "pwm-fan");
        write(root, "class/thermal/cooling_device0/cur_state", "3");
        let mut board = Board::at(root);
        assert!(!board.read().reports_throttling);
        write(root, "class/thermal/cooling_device1/type", "thermal-cpufreq-0");
        write(root, "class/thermal/cooling_device1/cur_state", "2");
        assert_eq!(board.read().throttled, [TOO_HOT]);
    }

    #[test]
    fn a_low_supply_voltage_is_reported_once_by_either_interface() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "class/hwmon/hwmon1/name", "rpi_volt");
        write(folder.path(), "class/hwmon/hwmon1/in0_lcrit_alarm", "1");
        let mut board = Board::at(folder.path());
        assert_eq!(board.read().throttled, ["supply voltage too low"]);
        write(folder.path(), FIRMWARE, "50005");
        assert_eq!(board.read().throttled, ["supply voltage too low", "throttled by the firmware"]);
    }

    #[test]
    fn events_counted_before_the_start_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let count = "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count";
        write(folder.path(), count, "7");
        let mut board = Board::at(folder.path());
        assert!(board.read().throttled.is_empty());
        write(folder.path(), count, "8");
        assert_eq!(board.read().throttled.len(), 1);
        assert!(board.read().throttled.is_empty());
    }

    #[test]
    fn a_board_without_sensors_gives_an_empty_reading() {
        assert_eq!(Board::at(Path::new("/nowhere")).read(), Reading::default());
    }
}
