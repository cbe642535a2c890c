//! What is below every metric family: series, found by their label values, each made of one cell per
//! thread that counts in it. A cell has a single writer, its thread, so that counting is a plain load
//! and store on a cache line that nobody else writes; a scrape reads and sums.
//! All kinds are rows of 64-bit slots: a counter is one slot, a gauge one (two's complement), a histogram
//! a floating-point sum and its buckets. Nothing here knows what the slots mean beyond that.
//! Nothing is ever dropped from a series that is listed; expiring idle series has its place in
//! [`SeriesSet::list`], where a series whose cells have all been folded has no handle left.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::Desc;
use prometheus::proto::LabelPair;

use super::{RegistryError, SERIES_DROPPED, refused};

/// Longer label values are cut. A SPIFFE ID of the usual form with the longest names Kubernetes allows
/// takes about 600 bytes.
const LABEL_VALUE_MAX: usize = 1024;

/// The value of every label in the series that takes what the cap turned away.
const OTHER: &str = "other";

const SLOTS_PER_LINE: usize = 8;

/// A cache line of slots, so that two threads' cells never share one.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Line([AtomicU64; SLOTS_PER_LINE]);

/// One thread's slots in one series, or the slots that all threads share.
#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<[Line]>);

/// What the slots of a family hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) slots: usize,
    /// Whether slot 0 is a floating-point sum; all others are integers that wrap.
    pub(super) float_first: bool,
}

/// All series of a family.
#[derive(Debug)]
pub(super) struct SeriesSet<const N: usize> {
    pub(super) desc: Desc,
    label_names: [String; N],
    shape: Shape,
    series_max: usize,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    /// By the label values, each ended by a NUL, which none of them holds.
    by_values: HashMap<String, Arc<Series>>,
    other: Option<Arc<Series>>,
}

/// One combination of label values.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) labels: Vec<LabelPair>,
    shape: Shape,
    /// Written by any thread, with atomic additions.
    shared: Slots,
    cells: Mutex<Cells>,
}

#[derive(Debug)]
struct Cells {
    /// What cells that no longer have a handle had counted.
    folded: Vec<u64>,
    /// By thread, oldest first.
    live: Vec<(u64, Slots)>,
}

/// This thread's number, never given twice.
fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

// === impl Slots ===

impl Slots {
    fn new(count: usize) -> Self {
        let lines = count.div_ceil(SLOTS_PER_LINE);
        Self((0..lines).map(|_| Line::default()).collect())
    }

    /// The first slot, without computing where it is.
    pub(super) fn first(&self) -> &AtomicU64 {
        &self.0[0].0[0]
    }

    pub(super) fn slot(&self, index: usize) -> &AtomicU64 {
        &self.0[index / SLOTS_PER_LINE].0[index % SLOTS_PER_LINE]
    }
}

// === impl SeriesSet ===

impl<const N: usize> SeriesSet<N> {
    pub(super) fn new(
        name: &str,
        help: &str,
        labels: [&str; N],
        shape: Shape,
        series_max: usize,
    ) -> Result<Self, RegistryError> {
        let label_names = labels.map(str::to_owned);
        let desc = Desc::new(name.to_owned(), help.to_owned(), label_names.to_vec(), HashMap::new())
            .map_err(|source| refused(name, source))?;
        let set = Self { desc, label_names, shape, series_max: series_max.max(1), index: Mutex::default() };
        if N == 0 {
            // It has one series whatever happens: show it as 0 from the start.
            set.series([""; N]);
        }
        Ok(set)
    }

    /// This thread's slots in the series of these values.
    pub(super) fn cell(&self, values: [&str; N]) -> Slots {
        self.series(values).cell()
    }

    /// The slots of that series that all threads share.
    pub(super) fn shared(&self, values: [&str; N]) -> Slots {
        self.series(values).shared.clone()
    }

    /// All series. The lock is held to copy pointers only: a look-up does not wait for a whole scrape.
    pub(super) fn list(&self) -> Vec<Arc<Series>> {
        let index = lock(&self.index);
        let mut listed = Vec::with_capacity(index.by_values.len() + 1);
        listed.extend(index.by_values.values().cloned());
        listed.extend(index.other.iter().cloned());
        listed
    }

    /// A series' label values, in the order of the labels.
    pub(super) fn values(&self, series: &Series) -> [String; N] {
        let value = |name: &String| {
            let pair = series.labels.iter().find(|pair| pair.name() == name);
            pair.map(|pair| pair.value().to_owned()).unwrap_or_default()
        };
        self.label_names.each_ref().map(value)
    }

    fn series(&self, values: [&str; N]) -> Arc<Series> {
        let values = values.map(clean);
        let mut key = String::with_capacity(values.iter().map(|value| value.len() + 1).sum());
        for value in &values {
            key.push_str(value);
            key.push('\0');
        }
        let mut index = lock(&self.index);
        if let Some(series) = index.by_values.get(&key) {
            return series.clone();
        }
        if index.by_values.len() < self.series_max {
            let series = Arc::new(self.new_series(&values));
            index.by_values.insert(key, series.clone());
            return series;
        }
        SERIES_DROPPED.with_label_values(&[self.desc.fq_name.as_str()]).inc();
        let other = [const { Cow::Borrowed(OTHER) }; N];
        // Real values may have been "other" throughout: then that is the series.
        if let Some(series) = index.by_values.get(&format!("{OTHER}\0").repeat(N)) {
            return series.clone();
        }
        index.other.get_or_insert_with(|| Arc::new(self.new_series(&other))).clone()
    }

    fn new_series(&self, values: &[Cow<'_, str>; N]) -> Series {
        let named = self.label_names.iter().zip(values);
        let mut labels: Vec<_> = named
            .map(|(name, value)| {
                let mut label = LabelPair::default();
                label.set_name(name.clone());
                label.set_value(value.clone().into_owned());
                label
            })
            .collect();
        // As every Prometheus library shows them.
        labels.sort_by(|one, other| one.name().cmp(other.name()));
        Series {
            labels,
            shape: self.shape,
            shared: Slots::new(self.shape.slots),
            cells: Mutex::new(Cells { folded: vec![0; self.shape.slots], live: Vec::new() }),
        }
    }
}

/// A label value as it is shown: no control characters (the text format escapes only a newline), not
/// longer than the bound. Done before the series is looked up, so that two values that are shown alike
/// are one series.
fn clean(value: &str) -> Cow<'_, str> {
    let end = value.floor_char_boundary(LABEL_VALUE_MAX);
    let cut = &value[..end];
    if cut.chars().any(char::is_control) {
        return Cow::Owned(cut.replace(char::is_control, "\u{fffd}"));
    }
    Cow::Borrowed(cut)
}

// === impl Series ===

impl Series {
    fn cell(&self) -> Slots {
        let thread = this_thread();
        let mut cells = lock(&self.cells);
        if let Some((_, slots)) = cells.live.iter().find(|(owner, _)| *owner == thread) {
            return slots.clone();
        }
        let slots = Slots::new(self.shape.slots);
        cells.live.push((thread, slots.clone()));
        slots
    }

    /// The sums over all threads, slot by slot. Exact for all that was counted before; what is counted
    /// meanwhile may show in one slot and not yet in another.
    pub(super) fn sums(&self) -> Vec<u64> {
        let mut cells = lock(&self.cells);
        self.fold(&mut cells);
        let mut sums = cells.folded.clone();
        for (_, slots) in &cells.live {
            self.add(&mut sums, slots);
        }
        self.add(&mut sums, &self.shared);
        sums
    }

    /// Takes in the cells that have no handle any more: their threads ended, or let go of them.
    ///
    /// Floating-point sums depend on the order of addition, and one that shrinks by a rounding error
    /// looks to Prometheus like a restart. Each addition is monotonic, so that the total is too as long
    /// as the order never changes: of those, only the oldest cell may be taken in.
    fn fold(&self, cells: &mut Cells) {
        let mut index = 0;
        while index < cells.live.len() {
            // Exclusive access is proof that no handle is left, and that its writes are visible here.
            if Arc::get_mut(&mut cells.live[index].1.0).is_some() {
                let (_, slots) = cells.live.remove(index);
                self.add(&mut cells.folded, &slots);
            } else if self.shape.float_first {
                return;
            } else {
                index += 1;
            }
        }
    }

    fn add(&self, sums: &mut [u64], slots: &Slots) {
        for (index, sum) in sums.iter_mut().enumerate() {
            let value = slots.slot(index).load(Ordering::Relaxed);
            *sum = if index == 0 && self.shape.float_first {
                (f64::from_bits(*sum) + f64::from_bits(value)).to_bits()
            } else {
                sum.wrapping_add(value)
            };
        }
    }
}

/// A panic while the lock was held leaves nothing half-done in here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
