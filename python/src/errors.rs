//! Errors of the engine as the exceptions of `soragen.errors`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use soragen::Error;

/// The exception for an error, by its cause.
pub fn exception(error: Error) -> PyErr {
    Python::attach(|py| raised(py, &error).unwrap_or_else(|other| other))
}

fn raised(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let message = error.to_string();
    let class = |name: &str| class(py, name);
    let made = match error {
        Error::Cancelled => class("Cancelled")?.call1((message,)),
        Error::Request(setting, _) => class("RequestError")?.call1((message, setting.to_string())),
        Error::Refused { category, policy } => class("PromptRefused")?.call1((message, category, policy)),
        Error::NotFound { .. } | Error::Download { .. } => class("NotFound")?.call1((message,)),
        Error::Invalid { .. } | Error::Io { .. } => class("FileError")?.call1((message,)),
        Error::Device(_) => class("DeviceError")?.call1((message,)),
        Error::Memory(_) => class("OutOfMemory")?.call1((message,)),
        _ => class("GenerationError")?.call1((message,)),
    };
    Ok(PyErr::from_value(made?))
}

fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    static ERRORS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = ERRORS.get_or_try_init(py, || PyModule::import(py, "soragen.errors").map(Bound::unbind))?;
    Ok(module.bind(py).getattr(name)?.cast_into()?)
}

/// A result of the engine for Python.
pub trait ForPython<T> {
    fn for_python(self) -> PyResult<T>;
}

impl<T> ForPython<T> for soragen::Result<T> {
    fn for_python(self) -> PyResult<T> {
        self.map_err(exception)
    }
}
