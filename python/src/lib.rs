//! The engine of soragen for Python: the module `soragen._soragen`. The package around it is in `soragen/`.

mod arrays;
mod cache;
mod errors;
mod info;
mod model;
mod pictures;
mod request;
mod session;

use pyo3::prelude::*;

#[pymodule]
mod _soragen {
    use super::*;

    #[pymodule_export]
    use super::cache::{cache_usage, import_entries};
    #[pymodule_export]
    use super::info::{ModelInfo, admit, picture_size};
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::request::read_storyboard;
    #[pymodule_export]
    use super::session::{Progress, Session, Stats};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        #[cfg(feature = "builtin")]
        soragen_builtin::register();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        #[cfg(feature = "testing")]
        {
            module.add_function(pyo3::wrap_pyfunction!(super::model::set_step_delay, module)?)?;
            // For processes that others start: `FOLDER=SECONDS`.
            let delay = std::env::var("SORAGEN_STEP_DELAY").ok();
            if let Some((folder, seconds)) = delay.as_deref().and_then(|delay| delay.rsplit_once('=')) {
                model::set_step_delay(folder.into(), seconds.parse().unwrap_or(0.0));
            }
        }
        Ok(())
    }
}
