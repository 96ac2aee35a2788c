//! Single kernels on one thread, and the f32 peak of one core. Criterion's elements per second are operations per second.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use soragen::Threads;
use soragen::kernels::bench::kernels;

#[path = "peak.rs"]
mod peak;

fn main() {
    println!("peak of one core: {:.0} GFLOP/s in f32", peak::peak());
    let measure = || {
        let mut criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(3))
            .without_plots();
        for mut kernel in kernels() {
            let mut group = criterion.benchmark_group("kernels");
            group.throughput(Throughput::Elements(kernel.operations));
            group.sample_size(20);
            group.bench_function(&kernel.name, |bencher| bencher.iter(&mut kernel.run));
            group.finish();
        }
    };
    Threads::new(1).expect("a thread pool of one thread").run(measure);
}
