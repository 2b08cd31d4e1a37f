//! The native part of the Python module `mtxfleet`: the worker library with the GIL released.
//!
//! What Python programs see is in `mtxfleet/` beside this crate: [`stream`] is wrapped there by `mtxfleet.Stream`, which
//! adds iteration, defaults from the environment, logging and decoding.

mod bell;
mod errors;
mod figures;
mod frame;
mod options;
mod runtime;
mod stream;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<stream::Source>()?;
    module.add_class::<bell::Bell>()?;
    module.add_class::<frame::Frame>()?;
    module.add_class::<frame::Discontinuity>()?;
    module.add_class::<frame::Track>()?;
    module.add_class::<frame::Start>()?;
    module.add_function(wrap_pyfunction!(figures::metrics_text, module)?)?;
    module.add_function(wrap_pyfunction!(figures::serve_metrics, module)?)?;
    errors::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
