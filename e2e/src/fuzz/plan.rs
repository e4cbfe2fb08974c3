//! The cases of one RPC: first each place with each value by itself, then several by chance.

use std::path::Path;

use prost_reflect::{DynamicMessage, MethodDescriptor};

use super::Dice;
use super::mutate::{Place, places};

/// All cases of a method, by number.
#[derive(Debug)]
pub struct Plan {
    places: Vec<Place>,
    /// `(place, value)`; value 0 removes the field.
    singles: Vec<(usize, usize)>,
    home: std::path::PathBuf,
    seed: u64,
}

/// At most so many changes at once.
const TOGETHER: usize = 5;

impl Plan {
    /// The plan for `method`.
    #[must_use]
    pub fn new(method: &MethodDescriptor, home: &Path, seed: u64) -> Self {
        let places = places(&method.input());
        let singles = places
            .iter()
            .enumerate()
            .flat_map(|(index, place)| (0..=place.values(home).len()).map(move |value| (index, value)))
            .collect();
        Self {
            places,
            singles,
            home: home.to_owned(),
            seed,
        }
    }

    /// How many cases change one place alone.
    #[must_use]
    pub fn singles(&self) -> usize {
        self.singles.len()
    }

    /// Changes `message` as case `number` says; which places those were.
    pub fn apply(&self, number: usize, message: &mut DynamicMessage) -> String {
        if let Some(&single) = self.singles.get(number) {
            return self.change(single, message);
        }
        if self.singles.is_empty() {
            return "nothing to change".into();
        }
        let mut dice = Dice::new(self.seed ^ (number as u64) << 20);
        let count = 2 + dice.below(TOGETHER - 1);
        let names: Vec<String> = (0..count)
            .map(|_| self.change(self.singles[dice.below(self.singles.len())], message))
            .collect();
        names.join(" + ")
    }

    fn change(&self, (index, value): (usize, usize), message: &mut DynamicMessage) -> String {
        let place = &self.places[index];
        let values = place.values(&self.home);
        match value.checked_sub(1).and_then(|value| values.into_iter().nth(value)) {
            None => {
                place.clear(message);
                format!("{} removed", place.name())
            }
            Some(new) => {
                let mut text = format!("{new:?}");
                if text.len() > 120 {
                    text = format!("{}… ({} bytes)", text.chars().take(100).collect::<String>(), text.len());
                }
                place.set(message, new);
                format!("{} = {text}", place.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn the_same_seed_gives_the_same_cases_and_another_one_others() {
        let methods = crate::fuzz::methods().unwrap();
        let method = methods.iter().find(|method| method.name() == "RunPodSandbox").unwrap();
        let all = |seed| -> Vec<Vec<u8>> {
            let plan = Plan::new(method, Path::new("/home"), seed);
            assert!(plan.singles() > 300, "{}", plan.singles());
            let cases = plan.singles()..plan.singles() + 50;
            cases
                .map(|number| {
                    let mut message = DynamicMessage::new(method.input());
                    plan.apply(number, &mut message);
                    // Maps have no order on the wire.
                    let mut bytes = message.encode_to_vec();
                    bytes.sort_unstable();
                    bytes
                })
                .collect()
        };
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
    }
}
