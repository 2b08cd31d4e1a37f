//! Which datagrams of one sender were seen before (RFC 6479's idea: a window of bits below the highest counter).

/// Counters this far below the highest one seen are refused unseen. A node sends some 50 datagrams a second to all of
/// its peers together (more while a newcomer learns), so this is seconds of reordering.
pub const WINDOW: u64 = 1024;

const WORDS: usize = (WINDOW / 64) as usize;

/// The counters of one start of one sender. The first counter is accepted whatever it is.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    highest: u64,
    /// Bit `c % WINDOW` is set when counter `c` was seen, for the [`WINDOW`] counters up to `highest`.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    #[must_use]
    pub fn starting_with(counter: u64) -> Self {
        let mut window = Self { highest: counter, seen: [0; WORDS] };
        window.mark(counter);
        window
    }

    /// True for a counter not seen before and not too old; it counts as seen from then on.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            self.forget_between(self.highest, counter);
            self.highest = counter;
        } else if self.highest - counter >= WINDOW || self.is_marked(counter) {
            return false;
        }
        self.mark(counter);
        true
    }

    fn forget_between(&mut self, old: u64, new: u64) {
        if new - old >= WINDOW {
            self.seen = [0; WORDS];
            return;
        }
        for counter in old + 1..=new {
            let (word, bit) = place(counter);
            self.seen[word] &= !bit;
        }
    }

    fn mark(&mut self, counter: u64) {
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }

    fn is_marked(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        self.seen[word] & bit != 0
    }
}

fn place(counter: u64) -> (usize, u64) {
    let bit = counter % WINDOW;
    ((bit / 64) as usize, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_is_accepted_once() {
        let mut window = ReplayWindow::starting_with(7);
        assert!(!window.accept(7));
        assert!(window.accept(8));
        assert!(!window.accept(8));
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(8), "far below the window");
    }

    #[test]
    fn the_window_has_exactly_its_width() {
        let mut window = ReplayWindow::starting_with(0);
        assert!(window.accept(WINDOW));
        assert!(!window.accept(0), "as far below as the window is wide");
        assert!(window.accept(1));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_all_counters_seen(
            start in 0..5_000_u64,
            counters in prop::collection::vec(prop_oneof![0..8_000_u64, 3_000..3_400_u64], 1..400),
        ) {
            let mut window = ReplayWindow::starting_with(start);
            let mut seen = HashSet::from([start]);
            let mut highest = start;
            for counter in counters {
                let fresh = !seen.contains(&counter) && counter + WINDOW > highest;
                prop_assert_eq!(window.accept(counter), fresh);
                if fresh {
                    seen.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }
}
